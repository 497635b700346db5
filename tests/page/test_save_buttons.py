import pytest

pytest.importorskip("streamlit")

from slm.page.models import BUNDLED, LoadedModel
from slm.page.save_buttons import file_name
from slm.page.writing_job import WritingJob


@pytest.mark.parametrize(
    "model, name",
    [("runs/mine", "story-by-mine-seed-7.txt"), (BUNDLED, "story-by-bundled-model-seed-7.txt")],
)
def test_a_saved_story_is_named_after_its_model_and_seed(random_model, tokenizer, model, name):
    job = WritingJob(LoadedModel(model, 1, random_model(), tokenizer), "The", [{"seed": 7}])
    assert file_name(job, 0, "txt") == name

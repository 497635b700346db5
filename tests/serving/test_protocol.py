import pytest

pydantic = pytest.importorskip("pydantic")

from slm.serving.protocol import ChatCompletionRequest, CompletionRequest  # noqa: E402

MANY = 10_000


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CompletionRequest, {"prompt": [1.5] * MANY}),
        (CompletionRequest, {"prompt": [[""]] * MANY}),
        (CompletionRequest, {"stop": [1] * MANY}),
        (CompletionRequest, {f"field {number}": 1 for number in range(MANY)}),
        (ChatCompletionRequest, {"messages": [{}] * MANY}),
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": [{}] * MANY}]}),
        (
            ChatCompletionRequest,
            {"messages": [], "stream_options": {str(number): 1 for number in range(MANY)}},
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_of_many_faults_few_are_looked_for(kind, body):
    """All of a large body's faults would take seconds, in which nobody else is answered."""
    with pytest.raises(pydantic.ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() < 10

import math
import subprocess
import sys
import warnings
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from slm import plots

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
pyplot = pytest.importorskip("matplotlib.pyplot")

STORIES = ["Once upon a time there was a cat.", "Once upon a time.", "One day a dog ran and ran."]
PIECES = ["Once", " upon", " a", " time", "\n", " \U0010fffd"]  # the last one is in no font
CONFIG = SimpleNamespace(
    vocab_size=4096,
    context_length=256,
    n_layers=6,
    n_heads=6,
    n_kv_heads=2,
    d_model=384,
    d_ff=1024,
    tie_embeddings=True,
)


def history(steps=40):
    return SimpleNamespace(
        steps=[
            SimpleNamespace(
                step=step,
                loss=8.0 / step + 1,
                learning_rate=1e-3,
                tokens=1000 * step,
                seconds=3.0 * step,
                grad_norm=1.0,
            )
            for step in range(1, steps + 1)
        ],
        evaluations=[
            SimpleNamespace(
                step=step,
                tokens=1000 * step,
                nats_per_token=2.0,
                bits_per_byte=0.7,
                text=f"Once upon a time number {step} $ 日本 😀 “é”",
            )
            for step in range(10, steps + 1, 10)
        ],
    )


def pictures():
    maps = np.tile(np.tril(np.ones((6, 6))) / np.arange(1, 7)[:, None], (2, 3, 1, 1))
    return {
        "architecture": lambda: plots.architecture(CONFIG),
        "attention_maps": lambda: plots.attention_maps(maps, PIECES),
        "attention_maps, one layer": lambda: plots.attention_maps(maps, PIECES, layer=1),
        "attention_steps": lambda: plots.attention_steps([("Scores", np.eye(2))], ["a", "b"]),
        "batch": lambda: plots.batch([PIECES[:5]], [PIECES[1:]]),
        "bigrams": lambda: plots.bigrams(np.eye(2), ["a", " 😀"], [" x", "\n"]),
        "confidence": lambda: plots.confidence(PIECES, np.linspace(0, 1, 6)),
        "embedding_map": lambda: plots.embedding_map(np.eye(4), list("abcd"), list("ggff")),
        "loss_by_position": lambda: plots.loss_by_position([3.0, 2.0, math.nan], [9, 4, 0]),
        "loss_curve": lambda: plots.loss_curve(history(), baselines={"guessing": 8.3}),
        "loss_curve, before a step": lambda: plots.loss_curve(
            SimpleNamespace(steps=[], evaluations=[])
        ),
        "scores": lambda: plots.scores({"ours": 0.7, "bigram $ 日本": 1.3}),
        "next_token": lambda: plots.next_token(PIECES, {"cool": np.full(6, 1 / 6)}),
        "parameters": lambda: plots.parameters({"embedding": 75, "layers": 25}),
        "rotary": lambda: plots.rotary(head_dim=32),
        "rotary_distance": lambda: plots.rotary_distance(head_dim=32),
        "attention_map": lambda: plots.attention_map(maps[0, 0], PIECES, title="One head"),
        "bars": lambda: plots.bars({"a": [1.0, 2.0], "b": 3.0}, title="Bars", xlabel="x"),
        "grid": lambda: plots.grid(np.eye(2), ["a", "b"], ["c", "d"], title="Grid"),
        "histogram": lambda: plots.histogram({"a": [1, 2], "b": [3]}, title="H", xlabel="x"),
        "lines": lambda: plots.lines({"a": [1, 2]}, title="Lines", xlabel="x", ylabel="y"),
        "loss_curve, zoom": lambda: plots.loss_curve(history(), zoom=True),
        "merges": lambda: plots.merges([("start", PIECES), ("O + n", PIECES)]),
        "openings": lambda: plots.openings(STORIES),
        "rounding": lambda: plots.rounding([0.1, 0.2], {"8 bits": [0.1, 0.1]}),
        "slope": lambda: plots.slope([0, 1, 2], [3, 1, 2], 0.5, -2.0, after=0.7),
        "surprise": lambda: plots.surprise({"upon": 0.9}),
        "vectors": lambda: plots.vectors(np.eye(6), PIECES),
        "word_grid": lambda: plots.word_grid([["a"]], [[0.5]], ["1"], ["b"], title="Table"),
        "schedule": lambda: plots.schedule({"ours": [0.001, 0.002], "other": [0.002, 0.001]}),
        "story_and_curve": lambda: plots.story_and_curve(" ".join(STORIES) * 40, history()),
        "story_lengths": lambda: plots.story_lengths({"training": STORIES, "validation": STORIES}),
        "story_strip": lambda: plots.story_strip([("step 1", "a\n\nb"), ("step 2", STORIES[0])]),
        "tokens": lambda: plots.tokens({"ours": PIECES, "none": []}),
    }


def written(figure):
    """Every text in the figure, in order."""
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("name", pictures())
def test_a_picture_is_a_png_and_leaves_nothing_behind(name):
    from PIL import Image

    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = pictures()[name]()
        content, metadata = figure._repr_mimebundle_()
    png = content["image/png"]
    assert len(figure.alt) > 20
    assert metadata == {"image/png": {"alt": figure.alt}}
    assert content["text/plain"] == f"[{figure.alt}]"
    assert dict(matplotlib.rcParams) == before
    assert isinstance(figure, matplotlib.figure.Figure)
    size = Image.open(BytesIO(png)).size
    assert size == pytest.approx(figure.get_size_inches() * 110, abs=1)
    assert len(png) < 80_000
    assert pyplot.get_fignums() == []


def test_the_small_png_keeps_rare_colours():
    from PIL import Image

    png = plots.loss_curve(history())._repr_png_()
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)
    orange = [0xE6, 0x9F, 0x00]  # the validation points
    assert (np.abs(pixels - orange).max(axis=-1) <= 3).sum() > 20


def test_matplotlib_is_imported_only_to_draw_and_pyplot_never():
    check = """if True:
        import sys
        from slm import plots
        assert "matplotlib" not in sys.modules
        plots.parameters({"embedding": 1})._repr_png_()
        assert "matplotlib" in sys.modules
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", check], check=True)


def test_tensors_that_still_learn_can_be_drawn():
    vectors = torch.eye(4, dtype=torch.bfloat16, requires_grad=True)
    axes = plots.embedding_map(vectors, list("abcd"), list("ggff")).axes[0]
    assert [len(line.get_xdata()) for line in axes.lines[:2]] == [2, 2]


def test_a_run_that_went_astray_can_be_drawn():
    astray = history(5)
    astray.steps[-1].loss = math.nan
    axes = plots.loss_curve(astray).axes[0]
    assert axes.get_ylim()[1] == pytest.approx(1.06 * 9)


def test_story_lengths_shares_and_median():
    figure = plots.story_lengths(STORIES)
    shares = figure.axes[0].patches[0].get_data().values
    assert sum(shares) == pytest.approx(100)
    assert "stories, median 7" in written(figure)


def test_no_label_leaves_the_picture_when_it_is_shown():
    counts = np.random.default_rng(0).integers(10, 26, (8, 50))
    figures = [plots.histogram({"a": row}, title="Runs", xlabel="words", bins=25) for row in counts]
    for figure in figures:
        figure._repr_png_()
        assert figure.axes[0].yaxis.label.get_window_extent().x0 >= 0


def test_a_median_between_two_numbers_has_its_half():
    figure = plots.histogram({"a": [1, 2], "b": [3, 3]}, title="Runs", xlabel="words")
    assert "a, median 1.5" in written(figure)
    assert "b, median 3" in written(figure)


def test_openings_are_shares_of_all():
    figure = plots.openings(STORIES)
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([200 / 3, 100 / 3])
    assert figure.axes[0].get_yticklabels()[0].get_text() == "Once upon a …"


def test_lines_take_heights_or_pairs():
    curves = {"a": [1, 2], "b": ([5, 6], [7, 8])}
    figure = plots.lines(curves, title="T", xlabel="x", ylabel="y", log_y=True)
    first, second = figure.axes[0].lines
    assert list(first.get_xdata()) == [0, 1]
    assert list(second.get_xdata()) == [5, 6]
    assert figure.axes[0].get_yscale() == "log"
    assert "b goes from 7 to 8" in figure.alt


def test_bars_of_several_seeds_have_a_dot_for_each():
    figure = plots.bars({"a": [1.0, 3.0], "b": 5.0}, title="T")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2, 5]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 3]]
    assert {"2.00", "5.00"} <= set(written(figure))


def test_merges_show_every_piece_of_every_step():
    figure = plots.merges([("start", ["a", "b", "c"]), ("a + b", ["ab", "c"])])
    assert len(figure.axes[0].patches) == 5
    assert "3, 2" in figure.alt


def test_zoom_leaves_the_first_tenth_out():
    axes = plots.loss_curve(history(), baselines={"guessing": 8.3}, zoom=True).axes[0]
    assert axes.get_ylim()[1] < 4
    assert axes.get_xlim()[0] >= 4
    assert not any("guessing" in text.get_text() for text in axes.texts)


def test_rounding_counts_different_values():
    figure = plots.rounding([0.1, 0.2, 0.3], {"8 bits": [0.1, 0.1, 0.3]})
    assert {"3 values", "2 values"} <= set(written(figure))


def test_tokens_have_a_tile_each_and_are_counted():
    figure = plots.tokens({"ours": PIECES})
    assert len(figure.axes[0].patches) == len(PIECES)
    assert {"ours", "Once", "upon", "·", "↵", "□", "6 tokens · 3.17 characters each"} <= set(
        written(figure)
    )


def test_tokens_wrap_within_the_page():
    paper = plots.tokens({"ours": [" word"] * 100}).axes[0]
    assert max(tile.get_x() + tile.get_width() for tile in paper.patches) <= paper.get_xlim()[1]
    assert len({tile.get_y() for tile in paper.patches}) == 9  # 12 words of 5 in a row of 60


def test_batch_marks_the_borders_between_stories():
    row = ["a", "<|endoftext|>", "b", "c"]
    tiles = plots.batch([row[:3]], [row[1:]]).axes[0].patches
    assert len(tiles) == 6
    colours = [tile.get_facecolor() for tile in tiles]
    assert [place for place, colour in enumerate(colours) if colour == colours[1]] == [1, 3]


def test_heat_maps_hold_their_numbers():
    figure = plots.bigrams([[0.25, 0.75], [1.0, 0.0]], ["a", "b"], ["c", "d"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.25", "0.75", "1.00", "0.00"]
    figure = plots.attention_steps([("Masked", [[0.5, -math.inf], [-1, 2]])], ["a", "b"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.5", "−∞", "−1.0", "2.0"]


def test_confidence_is_darker_the_surer():
    tiles = plots.confidence(["a", "b", "c"], [0.1, 0.9, math.nan]).axes[0].patches
    unsure, sure, unknown = (sum(tile.get_facecolor()[:3]) for tile in tiles)
    assert sure < unsure < 3
    assert unknown > 2.8


def test_rotary_dot_products_lie_on_one_curve():
    curve, *queries = plots.rotary_distance(head_dim=32).axes[0].lines
    assert len(queries) == 3
    for query in queries:
        expected = np.interp(query.get_xdata(), curve.get_xdata(), curve.get_ydata())
        assert query.get_ydata() == pytest.approx(expected)


def test_parameters_bars_and_shares():
    figure = plots.parameters({"embedding": 75, "layers": 25})
    assert [bar.get_width() for bar in figure.axes[0].patches] == [75, 25]
    assert {"75  (75.0%)", "25  (25.0%)", "embedding", "Where the 100 parameters are"} <= set(
        written(figure)
    )


def test_architecture_follows_the_configuration():
    texts = written(plots.architecture(CONFIG))
    assert {"× 6 layers", "4,096 × 384", "384 → 1,024 → 384"} <= set(texts)
    assert {"6 heads of 64", "2 for keys and values"} <= set(texts)
    assert any("same matrix" in text for text in texts)
    untied = SimpleNamespace(**{**vars(CONFIG), "tie_embeddings": False, "n_kv_heads": 6})
    texts = written(plots.architecture(untied))
    assert "6 heads of 64" in texts
    assert "2 for keys and values" not in texts
    assert not any("same matrix" in text for text in texts)


def test_attention_maps_show_every_head():
    maps = np.random.default_rng(0).random((2, 3, 4, 4))
    figure = plots.attention_maps(maps, PIECES[:4])
    images = [axes.images[0].get_array() for axes in figure.axes[:6]]
    assert np.allclose(images, maps.reshape(6, 4, 4))
    one = plots.attention_maps(maps, PIECES[:4], layer=1)
    assert np.allclose([axes.images[0].get_array() for axes in one.axes[:3]], maps[1])


def test_embedding_map_keeps_distances_and_names_every_word():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(12, 2))
    words = [f"word{number}" for number in range(12)]
    vectors = flat @ np.linalg.qr(rng.normal(size=(8, 2)))[0].T  # a plane in 8 dimensions
    axes = plots.embedding_map(vectors, words, ["one"] * 12).axes[0]
    drawn = np.transpose(axes.lines[0].get_data())
    assert np.linalg.norm(drawn[0] - drawn[1:], axis=1) == pytest.approx(
        np.linalg.norm(flat[0] - flat[1:], axis=1)
    )
    labels = axes.texts
    assert [label.get_text() for label in labels] == words
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_schedule_draws_each_rate():
    lines = plots.schedule({"ours": [0.001, 0.002], "other": [0.003, 0.001]}).axes[0].lines
    assert [list(line.get_ydata()) for line in lines] == [[1, 2], [3, 1]]


def test_loss_curve_draws_losses_checks_and_baselines():
    axes = plots.loss_curve(history(), baselines={"guessing": 8.3}).axes[0]
    raw, smooth, validation, baseline = axes.lines
    assert list(raw.get_ydata()) == [8.0 / step + 1 for step in range(1, 41)]
    assert list(raw.get_xdata()) == list(range(1, 41))  # thousands
    assert len(smooth.get_ydata()) == 40
    assert list(validation.get_xydata().ravel()) == [10, 2, 20, 2, 30, 2, 40, 2]
    assert list(baseline.get_ydata()) == [8.3, 8.3]
    assert {"guessing 8.30", "validation 2.00"} <= {text.get_text() for text in axes.texts}
    assert axes.get_xlabel() == "tokens trained on, thousands"
    minutes = axes.child_axes[0].get_xticklabels()
    assert minutes[0].get_text() == "0" and float(minutes[-1].get_text()) == 2


def test_story_and_curve_holds_the_story_and_three_milestones():
    figure = plots.story_and_curve("Once upon a time a cat sat.", history(), prompt="Once upon")
    texts = written(figure)
    assert {"1", "2", "3", "step 10", "step 20", "step 40", "Once upon", "a time a cat sat."} <= {
        *texts
    }
    chosen = written(plots.story_and_curve("A cat.", history(), milestones=[30]))
    assert "step 30" in chosen and "step 10" not in chosen


def test_story_strip_cuts_long_texts():
    texts = written(plots.story_strip([("step 1", "word " * 200), ("step 2", "end")], lines=2))
    assert {"step 1", "step 2", "end"} <= set(texts)
    first, second = (text for text in texts if "word" in text)
    assert second.endswith(" …") and not first.endswith("…")


def test_next_token_keeps_one_order():
    chances = {"cool": [0.1, 0.9, 0.0], "warm": [0.3, 0.5, 0.2]}
    figure = plots.next_token([" a", " b", " c"], chances, most=2)
    cool, warm = figure.axes
    assert [bar.get_width() for bar in cool.patches] == pytest.approx([90, 10, 0])
    assert [bar.get_width() for bar in warm.patches] == pytest.approx([50, 30, 20])
    assert [label.get_text() for label in cool.get_yticklabels()] == ["·b", "·a", "all others"]


def test_loss_by_position_starts_at_one():
    figure = plots.loss_by_position([3.0, 2.0, 1.0])
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert len(plots.loss_by_position([3.0, 2.0], [5, 4]).axes) == 2


def test_live_curve_draws_seldom_and_in_one_place(monkeypatch):
    shown, updated, now = [], [], [0.0]

    def display(figure, display_id):
        assert display_id is True
        shown.append(figure)
        return SimpleNamespace(update=updated.append)

    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=True))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    curve = plots.LiveCurve({"guessing": 8.3}, every=5, clock=lambda: now[0])
    for second in range(12):
        now[0] = float(second)
        curve(history(10))
    assert (len(shown), len(updated)) == (1, 2)  # at 0, 5 and 10 seconds
    curve.close(history(20))
    assert len(updated) == 3
    assert "A story after step 20" in written(updated[-1])


def test_live_curve_is_silent_outside_a_notebook(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    curve = plots.LiveCurve()
    curve(None)
    curve.close(None)
    assert capsys.readouterr().out == ""

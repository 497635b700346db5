import torch

from slm.hardware.mps_check import computes_rightly


def test_the_processor_computes_what_it_computes():
    assert computes_rightly("cpu")


def test_a_device_that_is_not_there_is_no_use():
    assert not computes_rightly("mps" if not torch.backends.mps.is_available() else "cuda:99")


def test_a_device_that_computes_otherwise_is_found_out(monkeypatch):
    wrong = lambda self, place: self + 0.1 * (place != "cpu")  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "to", wrong)
    assert not computes_rightly("meta")

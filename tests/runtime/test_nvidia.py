from __future__ import annotations

import pytest

from boneage.errors import InputError
from boneage.runtime import nvidia
from boneage.runtime.nvidia import Card, check_kernels, find_cards, kernel_fault, visible_cards

A100 = "NVIDIA A100-SXM4-40GB, GPU-a1, 570.86.15, 40960, 40000, 8.0"
B200 = "NVIDIA B200, GPU-b2, 570.86.15, 183359, 182000, 10.0"
RTX_5090 = "NVIDIA GeForce RTX 5090, GPU-c3, 570.86.15, 32607, 31000, 12.0"


def test_without_the_command_there_are_no_cards(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_cards() == nvidia.Nvidia((), "")
    check_kernels()


def test_several_cards_are_read(fake_nvidia):
    fake_nvidia(A100, RTX_5090)
    first, second = find_cards().cards
    assert first == Card("NVIDIA A100-SXM4-40GB", "GPU-a1", "570.86.15", 40960, 40000, (8, 0))
    assert second.compute == (12, 0)
    assert nvidia.card_names([first, first, second]) == (
        "2 × NVIDIA A100-SXM4-40GB, NVIDIA GeForce RTX 5090"
    )
    assert nvidia.compute_text([first, second]) == "8.0 and 12.0"


def test_what_a_part_of_a_card_does_not_say_is_unknown(fake_nvidia):
    fake_nvidia("NVIDIA A100-SXM4-40GB MIG 1g.5gb, MIG-1, 570.86.15, [N/A], [N/A], [N/A]")
    (card,) = find_cards().cards
    assert (card.total, card.free, card.compute) == (None, None, None)
    assert kernel_fault([card]) is None


def test_a_driver_that_does_not_know_compute_capability_is_asked_for_the_rest(fake_nvidia):
    refuse = (
        'case "$1" in *compute_cap*) '
        "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2;; esac"
    )
    fake_nvidia("Tesla T4, GPU-t4, 470.57.02, 15109, 15000", otherwise=refuse)
    assert find_cards().cards == (Card("Tesla T4", "GPU-t4", "470.57.02", 15109, 15000, None),)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exec sleep 9", "it gave no answer within 0.2 seconds"),
        ("echo 'Failed to initialize NVML: Driver mismatch'; exit 18", "Failed to initialize NVML"),
        ("exit 9", "it ended with code 9"),
        ("exit 0", "no devices were found"),
    ],
)
def test_a_command_without_an_answer_says_why(fake_nvidia, monkeypatch, script, problem):
    fake_nvidia(otherwise=script)
    monkeypatch.setattr(nvidia, "SECONDS", 0.2)
    found = find_cards()
    assert not found.cards
    assert found.problem.startswith(problem)
    check_kernels()  # the training then says itself what is wrong


@pytest.mark.parametrize(
    ("chosen", "left"),
    [(None, "ab"), ("", ""), ("-1", ""), ("GPU-b", "b"), ("GPU-x", "ab"), ("1", "ab")],
)
def test_hidden_cards_are_left_out(monkeypatch, chosen, left):
    cards = [Card(name, f"GPU-{name}", "570", 1, 1, (8, 0)) for name in "ab"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert "".join(card.name for card in visible_cards(cards)) == left


@pytest.mark.usefixtures("tensorflow_with_cuda")
@pytest.mark.parametrize("card", [B200, RTX_5090])
def test_tensorflow_is_refused_on_a_card_that_it_has_no_kernels_for(fake_nvidia, monkeypatch, card):
    fake_nvidia(card)
    with pytest.raises(InputError) as error:
        check_kernels()
    (fault,) = error.value.faults
    assert fault.what.endswith("and TensorFlow 2.21.0 has no kernels for 10.0 and higher")
    assert fault.fix == "Use the image gpu-jax, or KERAS_BACKEND=jax where JAX is installed."
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    check_kernels()
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    check_kernels()


@pytest.mark.usefixtures("tensorflow_with_cuda")
def test_tensorflow_is_not_refused_where_it_has_kernels_for_a_card(fake_nvidia, monkeypatch):
    fake_nvidia(A100)
    check_kernels()
    fake_nvidia(A100, RTX_5090)  # the training may be on either
    check_kernels()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-c3")
    with pytest.raises(InputError, match="RTX 5090"):
        check_kernels()


def test_a_tensorflow_that_computes_on_the_processor_is_not_refused(fake_nvidia, monkeypatch):
    fake_nvidia(RTX_5090)
    monkeypatch.setattr(nvidia, "uses_cuda", lambda backend: False)
    check_kernels()

import pytest
import torch

from toolchain.training.batches import TensorBatches, random_crop_and_flip, random_shift


def test_every_sample_comes_once_with_its_label() -> None:
    x = torch.arange(10.0)
    batches = TensorBatches(tensors=(x, 2 * x), size=4, shuffle=True)
    torch.manual_seed(0)
    seen = list(batches)
    assert len(batches) == len(seen) == 3
    assert [len(first) for first, _ in seen] == [4, 4, 2]
    assert all(torch.equal(2 * first, second) for first, second in seen)
    order = torch.cat([first for first, _ in seen])
    assert not torch.equal(order, x) and torch.equal(order.sort().values, x)


def test_order_follows_from_the_global_seed() -> None:
    batches = TensorBatches(tensors=(torch.arange(50),), size=50, shuffle=True)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(next(iter(batches))[0])
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize(
    ("lengths", "size", "what"),
    [((3, 4), 1, "one length"), ((0,), 1, "above 0"), ((3,), 0, "1 or")],
)
def test_sizes_that_make_no_sense_are_refused(lengths, size, what) -> None:
    with pytest.raises(ValueError, match=what):
        TensorBatches(tensors=tuple(torch.zeros(n) for n in lengths), size=size)


def test_crops_are_shifts_of_the_image_or_of_its_mirror() -> None:
    torch.manual_seed(0)
    image = torch.arange(1.0, 61).reshape(1, 2, 5, 6)
    seen = set()
    padded = {}
    for name, view in (("as is", image), ("mirrored", image.flip(3))):
        big = torch.nn.functional.pad(view, (2, 2, 2, 2))
        for y in range(5):
            for x in range(5):
                padded[big[0, :, y : y + 5, x : x + 6].numpy().tobytes()] = (name, y, x)
    for crop in random_crop_and_flip(image.expand(600, -1, -1, -1), padding=2):
        seen.add(padded[crop.contiguous().numpy().tobytes()])
    assert len(seen) == 50  # 5 × 5 shifts, mirrored or not


def test_shifts_bring_in_what_is_outside() -> None:
    torch.manual_seed(0)
    image = torch.arange(1.0, 41).reshape(1, 2, 4, 5)
    big = torch.nn.functional.pad(image, (1, 1, 1, 1), value=-7.0)
    expected = {
        big[0, :, y : y + 4, x : x + 5].numpy().tobytes() for y in range(3) for x in range(3)
    }
    seen = random_shift(image.expand(300, -1, -1, -1), most=1, outside=-7.0)
    assert {each.contiguous().numpy().tobytes() for each in seen} == expected

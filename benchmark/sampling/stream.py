"""The endless stream of training images, as a function of (seed, position)."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from benchmark.seeds import derive_seed


def round_stochastically(factors: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Image indices of one epoch, unshuffled: image I occurs floor(r_I) + [u_I < frac(r_I)] times.

    Args:
        factors: repeat factors r (I,), at least 1.
        uniform: draws u in [0, 1), (I,).
    """
    whole = np.floor(factors)
    counts = whole.astype(np.int64) + (uniform < factors - whole)
    return np.repeat(np.arange(len(factors)), counts)


class ImageStream:
    """Shuffled image indices, epoch after epoch, with random access: resuming needs no state.

    Args:
        repeat_factors: r (I,), one for each image; all ones for uniform shuffling.
        seed: recipes with equal seeds see the same images in the same order.
    """

    def __init__(self, repeat_factors: np.ndarray, seed: int) -> None:
        if len(repeat_factors) == 0:
            raise ValueError("a stream needs at least one image")
        self.repeat_factors = repeat_factors
        self.seed = seed
        self._epoch = 0
        self._start = 0  # position of the epoch's first image
        self._order = self._shuffled(0)

    @property
    def epoch_length(self) -> int:
        """Images of an epoch, on average."""
        return round(float(self.repeat_factors.sum()))

    def _shuffled(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self.seed, "image order", epoch))
        order = round_stochastically(self.repeat_factors, generator.random(len(self.repeat_factors)))
        return generator.permutation(order)

    def __getitem__(self, position: int) -> int:
        """The index of the image at a position counted from the start of the first epoch."""
        if position < self._start:
            self._epoch, self._start, self._order = 0, 0, self._shuffled(0)
        while position >= self._start + len(self._order):
            self._start += len(self._order)
            self._epoch += 1
            self._order = self._shuffled(self._epoch)
        return int(self._order[position - self._start])


class DrawnStream(ImageStream):
    """Independent draws, each with probability proportional to the image's factor.

    On average, images occur as often as with shuffled epochs. With factors of thousands, however, a shuffled
    epoch would hold millions of indices; here an epoch has as many draws as there are images.
    """

    @property
    def epoch_length(self) -> int:
        """Images of an epoch."""
        return len(self.repeat_factors)

    def _shuffled(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self.seed, "image draw", epoch))
        bounds = np.cumsum(self.repeat_factors, dtype=np.float64)
        draws = generator.random(len(bounds)) * bounds[-1]
        return np.searchsorted(bounds, draws, side="right").clip(max=len(bounds) - 1)


class CategoryStream(ImageStream):
    """A stream that draws a category for every position, and then an image that contains it.

    The method that makes the order of an epoch also sets ``drawn``, the category of each position as a label
    in ``0..C-1``.
    """

    drawn: np.ndarray

    def label(self, position: int) -> int:
        """The category that the image at a position was drawn for."""
        self[position]  # brings its epoch here
        return int(self.drawn[position - self._start])


class AlikeStream(ImageStream):
    """The images of another stream, in runs of ``size`` images that are all wider than high, or all not.

    An image waits until there are ``size`` images of its kind, as in the loaders of detectron2.

    Args:
        stream: gives the images.
        wide: whether each image is wider than high, (I,).
        size: length of a run.
    """

    def __init__(self, stream: ImageStream, wide: np.ndarray, size: int) -> None:
        self.repeat_factors, self.seed = stream.repeat_factors, stream.seed
        self._stream, self._wide, self._size = stream, wide, size
        self._taken = 0
        self._given: list[int] = []
        self._waiting: tuple[list[int], list[int]] = ([], [])

    @property
    def epoch_length(self) -> int:
        """Images of an epoch of the other stream, on average."""
        return self._stream.epoch_length

    def __getitem__(self, position: int) -> int:
        """The index of the image at a position."""
        while position >= len(self._given):
            index = self._stream[self._taken]
            self._taken += 1
            run = self._waiting[int(self._wide[index])]
            run.append(index)
            if len(run) == self._size:
                self._given += run
                run.clear()
        return self._given[position]


class StreamBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (image index, position in the stream) for one process, from one iteration to another.

    The batch of an iteration does not depend on the number of processes; each process has a contiguous part
    of it.

    Args:
        stream: the images.
        batch_size: images of an iteration over all processes.
        first: iteration to begin with (0-based).
        last: iteration to stop before.
        rank: this process.
        world_size: number of processes; divides ``batch_size``.
    """

    def __init__(
        self, stream: ImageStream, batch_size: int, first: int, last: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.stream = stream
        self.batch_size = batch_size
        self.first, self.last = first, last
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(self.first, self.last):
            yield [(self.stream[position], position) for position in self.positions(iteration)]

    def positions(self, iteration: int) -> range:
        """Positions in the stream of this process's images of an iteration."""
        own = self.batch_size // self.world_size
        start = iteration * self.batch_size + self.rank * own
        return range(start, start + own)


class PairedBatches(Sampler[list[tuple[int, int]]]):
    """Each batch followed by the one of a second stream, so that one loader serves both.

    Positions of the second are counted from -1 downwards: augmentation depends on the position, and the two
    streams must not share it.
    """

    def __init__(self, first: StreamBatches, second: StreamBatches) -> None:
        self.pair = first, second

    def __len__(self) -> int:
        return len(self.pair[0])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first, second in zip(*self.pair, strict=True):
            yield first + [(index, -1 - position) for index, position in second]

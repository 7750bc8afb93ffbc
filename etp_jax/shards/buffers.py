"""Memory of large arrays that is used again as soon as nothing refers to them. Fresh memory costs page faults."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """Keeps the memory of arrays that nothing refers to any more, for new arrays of the same size.

    A view of an array counts as a reference, and so does a transfer that JAX has not finished, or a JAX array that
    shares the memory. The memory is not used again before all of them are gone.
    """

    def __init__(self, most: int) -> None:
        """Keeps at most this number of unused blocks of memory; older ones are freed."""
        # Arrays end in any thread, also inside a garbage collection; a deque needs no lock for that.
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=most)

    def empty(self, shape: tuple[int, ...]) -> NDArray[np.int16]:
        """Returns an int16 array with any content, as `np.empty` does."""
        size = 2 * math.prod(shape)
        memory = self._taken(size)
        if memory is None:
            memory = np.empty(size, np.uint8)
        # The base of this array is no array, so numpy makes it the base of every view of it.
        owner = np.frombuffer(memory.data, np.int16)
        weakref.finalize(owner, self._free.append, memory).atexit = False
        return owner.reshape(shape)

    def _taken(self, size: int) -> NDArray[np.uint8] | None:
        """Takes out a block of this size; blocks of other sizes on the way are freed."""
        while self._free:
            try:
                memory = self._free.pop()  # the latest, which may still be in the processor's cache
            except IndexError:  # another thread took it
                return None
            if len(memory) == size:
                return memory
        return None

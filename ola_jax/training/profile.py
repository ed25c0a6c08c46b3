"""A profile of chosen steps, for TensorBoard's profiler, XProf or Perfetto."""

import pathlib

import jax


class Profile:
    """Records steps `first` to `last` (both included) of a stage into `folder`, on the first process."""

    def __init__(self, steps: tuple[int, int] | None, folder: pathlib.Path):
        self._first, self._last = steps or (0, 0)
        self._folder, self._on = folder, False
        self._wanted = steps is not None and jax.process_index() == 0

    def before(self, step: int) -> None:
        """Begins, if the next step is to be recorded."""
        if self._wanted and not self._on and self._first <= step <= self._last:
            jax.profiler.start_trace(self._folder)
            self._on = True

    def after(self, step: int, result: object) -> None:
        """Ends after the last step; waits for `result`, so that the step is in the profile."""
        if self._on and step >= self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends the recording, if there is one."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False

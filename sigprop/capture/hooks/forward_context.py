"""What is active during one forward pass of the whole model, and only then."""

from __future__ import annotations

import weakref

from sigprop.capture.hooks.functional import FunctionalMode
from sigprop.capture.hooks.global_hooks import GlobalHooks
from sigprop.capture.hooks.scope import Scope
from sigprop.capture.recording.recorder import Recorder


class ForwardContext:
    """Starts and stops what is active during a forward pass on a recorded step.

    Args:
        recorder: where statistics go; it is held weakly.
        scope: what is recorded outside of blocks.
        global_hooks: on during the forward pass.
    """

    def __init__(self, recorder: Recorder, scope: Scope, global_hooks: GlobalHooks) -> None:
        self._recorder = weakref.ref(recorder)
        self._scope, self._global_hooks = scope, global_hooks

    def start(self, training: bool) -> None:
        """Begin a forward pass on a recorded step."""
        self.stop()
        recorder = self._recorder()
        if recorder is None:
            return
        recorder.begin_forward(training)
        self._global_hooks.attach()
        mode = FunctionalMode(recorder, self._scope)
        recorder.now.mode = mode
        mode.enter()

    def stop(self) -> None:
        """End a forward pass, however it ended."""
        recorder = self._recorder()
        self._global_hooks.remove()
        if recorder is not None and recorder.now.mode is not None:
            recorder.now.mode.leave()
            recorder.now.mode = None

"""Turns an exception that nobody foresaw into an outcome, so that delivery goes on."""

import traceback
from collections.abc import Callable

from sensor_node.core.errors import is_out_of_memory
from sensor_node.core.model import Outcome, Verdict
from sensor_node.system.log import LOGGER
from sensor_node.system.text import one_line

HINT = "this is a fault of the program, or of its surroundings: the log has the details"


class Unforeseen:
    """Remembers which errors it has logged already. `mask` takes secrets out of a text."""

    def __init__(self, mask: Callable[[str], str] = str) -> None:
        self._mask = mask
        self._logged: set[str] = set()

    def outcome(self, error: Exception, *, fate_known: bool) -> Outcome:
        """Try later, with the error's text as the reason. Its stack goes to the log, once.

        Raises the error itself if the process is out of memory: it ends, and the next one has some.
        """
        if is_out_of_memory(error):
            raise error
        text = one_line(self._mask(f"{type(error).__name__}: {error}"))
        stack = "".join(traceback.format_tb(error.__traceback__))
        if stack not in self._logged:
            self._logged.add(stack)
            LOGGER.error("send_failed %s\n%s", text, stack.rstrip())
        return Outcome(Verdict.TRY_LATER, text, HINT, fate_known=fate_known)

"""Names without types: the type checker would infer them from the library's code, for half a minute."""

from typing import Any

def __getattr__(name: str) -> Any: ...

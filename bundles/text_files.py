"""The text files of a bundle as a mapping, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence


class TextFiles(Mapping[str, str]):
    """Texts by path. Reading one that is not UTF-8 raises UnicodeDecodeError.

    Args:
        paths: of every file, whatever it contains.
        read: returns a file's bytes.
    """

    def __init__(self, paths: Sequence[str], read: Callable[[str], bytes]) -> None:
        self._paths = dict.fromkeys(paths)
        self._read = read
        #: The texts that were asked for, in that order.
        self.used: dict[str, str] = {}

    def __getitem__(self, path: str) -> str:
        if path not in self.used:
            if path not in self._paths:
                raise KeyError(path)
            self.used[path] = self._read(path).decode("utf-8")
        return self.used[path]

    def __contains__(self, path: object) -> bool:
        return path in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

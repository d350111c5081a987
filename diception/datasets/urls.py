"""Names of shards: braces and globs expanded."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand


def expand(urls: str | Path | Sequence[str | Path]) -> list[str]:
    """Braces `{000..099}` and globs to a list of shards; ValueError where a pattern matches nothing."""
    patterns = [urls] if isinstance(urls, str | Path) else list(urls)
    found: list[str] = []
    for pattern in patterns:
        for url in braceexpand(str(pattern)):
            if not is_remote(url) and glob.has_magic(url) and not os.path.exists(url):
                matches = sorted(glob.glob(url))
                if not matches:
                    raise ValueError(f"no shard matches {url!r}")
                found.extend(matches)
            else:
                found.append(url)
    if not found:
        raise ValueError(f"no shard in {urls!r}")
    return found


def is_remote(url: str) -> bool:
    """Whether a shard must be fetched before it is read at random."""
    return url.startswith("pipe:") or "://" in url

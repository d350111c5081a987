"""Names of shards: braces and globs expanded, remote ones fetched into a cache."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand
from webdataset.gopen import gopen


def expand(urls: str | Path | Sequence[str | Path]) -> list[str]:
    """Braces `{000..099}` and globs to a list of shards; ValueError where a pattern matches nothing."""
    patterns = [urls] if isinstance(urls, str | Path) else list(urls)
    found: list[str] = []
    for pattern in patterns:
        for url in braceexpand(str(pattern)):
            if not _is_remote(url) and glob.has_magic(url) and not os.path.exists(url):
                matches = sorted(glob.glob(url))
                if not matches:
                    raise ValueError(f"no shard matches {url!r}")
                found.extend(matches)
            else:
                found.append(url)
    if not found:
        raise ValueError(f"no shard in {urls!r}")
    return found


def _is_remote(url: str) -> bool:
    return url.startswith("pipe:") or "://" in url


def fetch(url: str, cache: Path | None) -> Path:
    """The local file of a url: itself, or a copy in `cache`, fetched once and complete or absent."""
    if not _is_remote(url):
        return Path(url)
    if cache is None:
        raise ValueError(f"{url!r} is remote: a cache folder is needed, shards are read at random")
    # gopen hands other urls to a shell inside quotes.
    if not url.startswith("pipe:") and not re.fullmatch(r"[A-Za-z0-9+.-]+://[\w./:@%+,=&?~-]+", url):
        raise ValueError(f"url {url!r} has characters that are not allowed, percent-encode them")
    local = cache / (re.sub(r"[^A-Za-z0-9_-]+", "_", url.removesuffix(".tar"))[-180:] + ".tar")
    if not local.exists():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / f".{local.name}.{os.getpid()}.tmp"
        try:
            with gopen(url, "rb") as remote, open(temporary, "wb") as file:
                shutil.copyfileobj(remote, file, 1 << 20)
            os.replace(temporary, local)
        except OSError as error:
            raise ValueError(f"{url}: cannot be fetched: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
    return local

"""A zoo of learned image codecs.

    import zoo_core as zoo

    codec = zoo.load("weconvene-q3")          # or zoo.load("weconvene", quality=3.4)
    data = codec.encode("photo.jpg")          # bytes of a .zoo file
    image = zoo.decode(data)                  # PIL image; the file names its own codec

| name                   | what it is                                                    |
|------------------------|---------------------------------------------------------------|
| load                   | a codec by name                                               |
| decode                 | bytes of a .zoo file -> PIL image                             |
| models, entries        | what is installed; imports no model                           |
| compose                | a codec out of a transform and an entropy model               |
| inspect                | what a .zoo file says about itself, without decoding          |
| Codec                  | what `load` returns                                           |
| Transform, EntropyModel, CodecModel | what plugins implement, and the two joined       |
| Entry, Weights, Paper, hookimpl | what a plugin registers                              |
| ZooError               | root of every error raised on purpose (see zoo_core.errors)   |

Importing this package imports neither torch nor any plugin; each name is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "zoo_core.codec",
    "decode": "zoo_core.codec",
    "compose": "zoo_core.codec",
    "inspect": "zoo_core.container",
    "models": "zoo_core.registry",
    "entries": "zoo_core.registry",
    "Codec": "zoo_core.codec",
    "CodecModel": "zoo_core.model",
    "Transform": "zoo_core.interfaces",
    "EntropyModel": "zoo_core.interfaces",
    "Entry": "zoo_core.hooks",
    "Weights": "zoo_core.hooks",
    "Paper": "zoo_core.hooks",
    "hookimpl": "zoo_core.hooks",
    "ZooError": "zoo_core.errors",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from zoo_core.codec import Codec as Codec
    from zoo_core.codec import compose as compose
    from zoo_core.codec import decode as decode
    from zoo_core.codec import load as load
    from zoo_core.container import inspect as inspect
    from zoo_core.errors import ZooError as ZooError
    from zoo_core.hooks import Entry as Entry
    from zoo_core.hooks import Paper as Paper
    from zoo_core.hooks import Weights as Weights
    from zoo_core.hooks import hookimpl as hookimpl
    from zoo_core.interfaces import EntropyModel as EntropyModel
    from zoo_core.interfaces import Transform as Transform
    from zoo_core.model import CodecModel as CodecModel
    from zoo_core.registry import entries as entries
    from zoo_core.registry import models as models


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'zoo_core' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

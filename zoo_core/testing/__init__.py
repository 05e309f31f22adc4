"""What a plugin's tests inherit: `CodecConformance` turns every promise of the zoo into a test."""

import pytest

pytest.register_assert_rewrite("zoo_core.testing.conformance")  # before its import: failures show the values

from zoo_core.testing.conformance import CodecConformance  # noqa: E402

__all__ = ["CodecConformance"]

"""Every error that a user of the zoo can cause, in one tree.

    ZooError
    |-- UsageError             an argument makes no sense
    |   `-- SideInputError     a mask or a caption cannot be used (a ValueError too)
    |-- UnknownModelError      no such model; the message names the near misses
    |-- PluginError            a plugin is broken or does not fit this core
    |   `-- DuplicateNameError two distributions offer the same name
    |-- ImageError             the picture cannot be read, or its mode must be converted first
    |-- FileError              the .zoo file cannot be used
    |   |-- NotAZooFileError   another format
    |   |-- TruncatedFileError the file ends too early
    |   |-- CorruptFileError   a checksum or a field is wrong
    |   |-- LimitExceededError the file asks for more than the limits allow
    |   `-- UnsupportedFileError  a newer format version or an unknown required section
    |-- MismatchError          the decoded symbols are not the encoded ones: nothing is shown
    |-- WeightsError           the weights cannot be used
    |   |-- WeightsNotFoundError  neither bundled, nor cached, nor on the Hub
    |   `-- WrongWeightsError     not the weights that were asked for (digest, shapes, NaN, format)
    `-- RateError              the rate or quality asked for is out of reach

A message is one line: what happened, with which file and value, and what to do next.
"""

from __future__ import annotations


class ZooError(Exception):
    """Root of all errors that the zoo raises on purpose."""


class UsageError(ZooError):
    """An argument makes no sense."""


class SideInputError(UsageError, ValueError):
    """A side input of the encoder (mask, caption) cannot be used."""


class UnknownModelError(ZooError):
    """No installed plugin offers this name."""


class PluginError(ZooError):
    """A plugin is broken or does not fit this core."""


class DuplicateNameError(PluginError):
    """Two distributions offer the same name."""


class ImageError(ZooError):
    """The picture cannot be read, or its mode must be converted first."""


class FileError(ZooError):
    """The .zoo file cannot be used."""


class NotAZooFileError(FileError):
    """The data is not in the .zoo format."""


class TruncatedFileError(FileError):
    """The data ends too early."""


class CorruptFileError(FileError):
    """A checksum or a field of the file is wrong."""


class LimitExceededError(FileError):
    """The file asks for more memory or pixels than the limits allow."""


class UnsupportedFileError(FileError):
    """The file needs a newer version of the zoo."""


class MismatchError(ZooError):
    """The decoded symbols are not the ones that were encoded."""


class WeightsError(ZooError):
    """The weights cannot be used."""


class WeightsNotFoundError(WeightsError):
    """The weights are neither bundled, nor cached, nor on the Hub."""


class WrongWeightsError(WeightsError):
    """These are not the weights that were asked for."""


class RateError(ZooError):
    """The rate or the quality asked for is out of reach."""

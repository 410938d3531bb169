"""Reads config.ini and its drop-ins into frozen values, and reports every mistake at once."""

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sensor_node.config import ini
from sensor_node.config.places import directories
from sensor_node.config.schema import SECTIONS, options_of, sensor_options, sources_with
from sensor_node.core.errors import ConfigError
from sensor_node.core.options import MAX_NAME_BYTES, Option
from sensor_node.formats import Format
from sensor_node.sensors.source import SensorConfig, SourceType
from sensor_node.system.text import (
    name_without_password,
    url_without_password,
    visible,
    without_password,
)

SENSOR_PREFIX = "sensor:"
_NEEDS = {"username": "password_file", "password_file": "username", "key_file": "cert_file"}


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """[storage]; sizes in bytes, times in seconds."""

    path: Path
    max_size: int
    min_free: int
    when_full: str
    keep_sent: float
    max_age: float  # 0: undelivered readings are never too old
    commit_interval: float | None  # None: it follows from the sensors' rates


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """[sink]; times in seconds. An empty text: not used."""

    url: str
    format: Format
    batch_size: int
    send_interval: float
    compression: str
    timeout: float
    delivery: str
    token_file: str
    username: str
    password_file: str
    ca_file: str
    cert_file: str
    key_file: str
    proxy: str
    max_rate: float  # readings a second; 0: no limit
    success_statuses: frozenset[int]
    refused_statuses: frozenset[int]

    @property
    def at_most_once(self) -> bool:
        return self.delivery == "at-most-once"

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The files with secrets and certificates: a change in one may repair the sink."""
        names = (self.token_file, self.password_file, self.ca_file, self.cert_file, self.key_file)
        return tuple(filter(None, names))


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """[retry]; times in seconds."""

    initial_delay: float
    multiplier: float
    max_delay: float
    max_attempts: int  # 0: it never gives up


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """[process]; times in seconds."""

    senders: int
    stop_timeout: float


@dataclass(frozen=True, slots=True)
class LogConfig:
    """[log]."""

    level: str


class Effective(NamedTuple):
    """One option that is in effect."""

    section: str
    option: str
    value: str  # as the file has it
    file: str  # the file that sets it; empty: it is the default


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. The place of the file alone decides where state lives."""

    file: Path
    node_id: str
    sensors: tuple[SensorConfig, ...]
    storage: StorageConfig
    sink: SinkConfig
    retry: RetryConfig
    process: ProcessConfig
    log: LogConfig
    state_directory: Path
    runtime_directory: Path
    effective: tuple[Effective, ...]  # every option that has a meaning with these sensors


def load_config(file: Path) -> Config:
    """Read `file` and the drop-ins beside it. Raises ConfigError with a line for each mistake."""
    file = Path(os.path.abspath(file))
    reader = _Reader(file)
    reader.read_files()
    return reader.build()


def config_of(file: Path, settings: Iterable[Effective]) -> Config:
    """The configuration with these settings; `file`, which may have changed, is not read.

    Raises ConfigError with a line for each mistake.
    """
    reader = _Reader(file)
    for row in settings:
        texts = reader.texts.setdefault(row.section, {})
        if row.file:
            texts[row.option] = _Text(row.value, Path(row.file))
    return reader.build()


class _Text(NamedTuple):
    """The text of an option, and the file that it is from."""

    text: str
    file: Path


class _Reader:
    """Reads the texts of all files, then the values of the texts; collects every mistake."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.errors: list[str] = []
        self.texts: dict[str, dict[str, _Text]] = {}  # section → option → text

    def read_files(self) -> None:
        for file, sections, errors in ini.read_all(self.file):
            self.errors += errors
            for section, texts in sections.items():
                self._take_section(file, section, texts)

    def _take_section(self, file: Path, section: str, texts: dict[str, str]) -> None:
        kind = "sensor" if section.startswith(SENSOR_PREFIX) else section
        known = options_of(kind) if kind == "sensor" or section in SECTIONS else {}
        if section == "DEFAULT":
            self.errors.append(f"{file}: [DEFAULT] is not used here; name the section meant")
        elif section == "sensor" or not known:
            names = [SENSOR_PREFIX + "NAME" if name == "sensor" else name for name in SECTIONS]
            nearest = _nearest(section, names)
            self.errors.append(f"{file}: [{_masked_section(section)}]: unknown section{nearest}")
        else:
            self._take_options(file, section, texts, known)

    def _take_options(
        self, file: Path, section: str, texts: dict[str, str], known: dict[str, Option]
    ) -> None:
        taken = self.texts.setdefault(section, {})
        for name, text in texts.items():
            if name in known:
                taken[name] = _Text(text, file)
            else:
                place = f"[{_masked_section(section)}] {name_without_password(name)}"
                self.errors.append(f"{file}: {place}: unknown option{_nearest(name, list(known))}")

    def build(self) -> Config:
        """The configuration. Raises ConfigError where there were mistakes, here or before."""
        values = {
            name: self._values(name, options_of(name)) for name in SECTIONS if name != "sensor"
        }
        sensors = [self._sensor(name) for name in self.texts if name.startswith(SENSOR_PREFIX)]
        if not sensors and not self.errors:
            self.errors.append(f"{self.file}: no sensor; add a section [sensor:NAME]")
        self._check_together(values)
        if self.errors:
            raise ConfigError(*map(visible, self.errors))
        state, runtime = directories(self.file)
        storage = values["storage"]
        storage["path"] = self.file.parent / (storage["path"] or state / "telemetry.db")
        for name in ("token_file", "password_file", "ca_file", "cert_file", "key_file"):
            values["sink"][name] = self._resolved(values["sink"][name])
        return Config(
            file=self.file,
            node_id=values["node"]["id"] or _host_name(),
            sensors=tuple(filter(None, sensors)),
            storage=StorageConfig(**storage),
            sink=SinkConfig(**values["sink"]),
            retry=RetryConfig(**values["retry"]),
            process=ProcessConfig(**values["process"]),
            log=LogConfig(**values["log"]),
            state_directory=state,
            runtime_directory=runtime,
            effective=tuple(self._effective()),
        )

    def _values(self, section: str, options: dict[str, Option]) -> dict[str, Any]:
        """Each option's value. A mistake adds a line, and the value is None."""
        values: dict[str, Any] = {}
        for name, option in options.items():
            try:
                values[name] = option.kind.parse(self._text(section, option).text)
            except ValueError:
                values[name] = None
                self._refuse(section, option, option.kind.allowed)
        return values

    def _text(self, section: str, option: Option) -> _Text:
        return self.texts.get(section, {}).get(option.name) or _Text(option.default, self.file)

    def _refuse(self, section: str, option: Option, wanted: str) -> None:
        text, file = self._text(section, option)
        line = f"{file}: [{_masked_section(section)}] {option.name}"
        # A command may have a password anywhere.
        if not option.kind.is_command or not text:
            masked = url_without_password if option.kind.is_url else without_password
            line += f" = {masked(text)!r}"
        self.errors.append(f"{line}: want {wanted}")

    def _sensor(self, section: str) -> SensorConfig | None:
        """None where a mistake in it was found."""
        known_errors = len(self.errors)
        name = section.removeprefix(SENSOR_PREFIX)
        common = self._values(section, sensor_options(""))
        source, rate = common["source"], common["rate"]
        settings: dict[str, Any] = {}
        if source:
            settings = self._settings(section, source)
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES or not name.isprintable():
            wanted = f"a printable name of 1 to {MAX_NAME_BYTES} bytes"
            self.errors.append(f"{self.file}: [{_masked_section(section)}]: want {wanted}")
        if source and rate and rate > source.max_rate:
            wanted = f"at most {source.max_rate:g} with source = {source.name}"
            self._refuse(section, sensor_options("")["rate"], wanted)
        if len(self.errors) > known_errors:
            return None
        return SensorConfig(name, source, rate, MappingProxyType(settings))

    def _settings(self, section: str, source: SourceType) -> dict[str, Any]:
        """The source's own options; each mistake adds a line."""
        own = {option.name: option for option in source.options}
        known_errors = len(self.errors)
        settings = self._values(section, own)
        if len(self.errors) == known_errors:
            for name, wanted in source.check(settings):
                self._refuse(section, own[name], wanted)
        for name, option in options_of("sensor").items():
            if name in self.texts[section] and name not in sensor_options(source.name):
                holders = " or ".join(sources_with(name))
                self._refuse(section, option, f"it only with source = {holders}")
        return settings

    def _check_together(self, values: dict[str, dict[str, Any]]) -> None:
        """Add a line for each value that does not go with another option's."""
        sink, retry = values["sink"], values["retry"]
        sink_options = options_of("sink")
        delays = (retry["initial_delay"], retry["max_delay"])
        if None not in delays and delays[0] > delays[1]:
            option = options_of("retry")["initial_delay"]
            self._refuse("retry", option, f"at most max_delay, {delays[1]:g}s")
        if sink["token_file"] and sink["username"]:
            self._refuse("sink", sink_options["token_file"], "it or username, not both")
        for name, other in _NEEDS.items():
            if sink[name] and not sink[other]:
                self._refuse("sink", sink_options[name], f"{other} with it")
        if both := (sink["success_statuses"] or set()) & (sink["refused_statuses"] or set()):
            wanted = f"no success_statuses, as {min(both)} is"
            self._refuse("sink", sink_options["refused_statuses"], wanted)

    def _resolved(self, name: str) -> str:
        """A file's path; relative names begin at the configuration's directory.

        ${CREDENTIALS_DIRECTORY} stands for systemd's directory of credentials.
        """
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        if credentials:
            name = name.replace("${CREDENTIALS_DIRECTORY}", credentials)
        return str(self.file.parent / name) if name else ""

    def _effective(self) -> list[Effective]:
        """Every option that has a meaning, in the order of the table; the sensors come last."""
        rows: list[Effective] = []
        sensors = [name for name in self.texts if name.startswith(SENSOR_PREFIX)]
        for section in [name for name in SECTIONS if name != "sensor"] + sensors:
            texts = self.texts.get(section, {})
            options = options_of(section)
            if section in sensors:
                options = sensor_options(self._text(section, options_of("sensor")["source"]).text)
            for name, option in options.items():
                text, file = texts.get(name, (option.default, ""))
                rows.append(Effective(section, name, text, str(file)))
        return rows


def _masked_section(section: str) -> str:
    """The name of a section, without a password that it may hold by mistake."""
    kind, colon, name = section.partition(":")
    if kind == "sensor":
        return f"{kind}{colon}{name_without_password(name)}"
    return name_without_password(section)


def _host_name() -> str:
    """This host's name, made printable: the kernel allows any bytes, and no name at all."""
    name = "".join(char if char.isprintable() else "-" for char in os.uname().nodename)
    return name.strip() or "localhost"


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else "; known are " + ", ".join(known)

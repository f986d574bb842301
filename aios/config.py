"""Every setting in one frozen tree, read once at the door and passed on as an argument.

Precedence: argument > `AIOS_*` environment > `aios.toml` in the current folder > default.
An unknown key in any of the three is an error that lists the known ones, because a
misspelt setting that is silently ignored is found only when it hurts.
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from aios.errors import UsageError
from aios.records.cost import Prices

PREFIX = "AIOS_"
FILE = "aios.toml"


class Settings(BaseSettings):
    """What a runtime needs to know before it starts. Read it with `Settings.load`.

    After loading every URL is filled in: `None` is only a way of saying "the default".
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, toml_file=FILE, extra="forbid", frozen=True
    )

    home: Path = Field(
        default=Path("~/.aios"),
        description="Folder of this runtime's state. One runtime per home, so a private "
        "runtime only needs a home of its own to share nothing.",
    )
    store_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data['home']}/aios.db",
        description="SQLAlchemy URL. SQLite in home by default, as it needs no server; "
        "postgresql://... for a cluster whose head may be lost.",
    )
    artifacts_url: str = Field(
        default_factory=lambda data: str(data["home"] / "artifacts"),
        description="fsspec URL of model artifacts. Must be reachable by every node: "
        "a folder is enough for one machine, s3://bucket/path for more.",
    )
    log_url: str = Field(
        default_factory=lambda data: str(data["home"] / "predictions"),
        description="URL of the folder with the Delta tables of the prediction log.",
    )
    runs_url: str = Field(
        default_factory=lambda data: str(data["home"] / "runs"),
        description="fsspec URL of the folders of training runs, and of data sent from notebooks. "
        "Must be reachable by every node, as artifacts_url.",
    )
    flows_url: str = Field(
        default_factory=lambda data: _flows_beside(data["store_url"], data["home"]),
        description="SQLAlchemy URL of the database of users' flows. A SQLite file in home by "
        "default, whose workers all run on the head; beside the store where that is PostgreSQL.",
    )
    flow_workers: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="Processes that run users' flows, of some 250 MB each. There is none until the "
        "first flow is sent. Two, so that one goes on while the other is begun again.",
    )
    spare_workers: int = Field(
        default=2,
        ge=0,
        le=100,
        description="Processes of some 100 MB on each node that have imported everything and wait, "
        "so that the next replica starts in a fraction of the time. Two, as a deployment takes: "
        "Serve builds the application in one. 0: none; replicas begin with a process and imports.",
    )
    http_port: int = Field(
        default=8000, ge=1, le=65535, description="TCP port of predictions; Ray Serve's own."
    )
    ray_port: int = Field(
        default=6379, ge=1, le=65535, description="TCP port of Ray's control store; Ray's own."
    )
    dashboard_port: int = Field(
        default=8265,
        ge=1,
        le=65535,
        description="TCP port of Ray's dashboard, which takes the Serve configuration.",
    )
    window_s: float = Field(
        default=60.0,
        ge=1,
        le=3600,
        description="Length of the windows, in seconds, in which replicas summarise features and "
        "predictions. What a killed replica had seen of its last one is lost.",
    )
    prices: Prices = Field(
        default=Prices(),
        description="What nodes cost by the hour, as a table [prices] or, in AIOS_PRICES, as JSON. "
        "Nobody knows that but you, so without it costs are told in core-hours.",
    )
    log_encryption: bool = Field(
        default=False,
        description="Whether keys, inputs and outputs in the prediction log, and feedback beside "
        "it, are encrypted (AES-256-GCM). The keys are in home/keys/log.json, and without that "
        "file nobody reads them: keep a copy of it elsewhere.",
    )
    log_keep_days: float = Field(
        default=90.0,
        ge=0,
        le=36_500,
        allow_inf_nan=False,
        description="Days after which rows of the prediction log, and feedback, are removed; their "
        "files go a week later. 0: never, because rows pile up for a reason only then.",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="http(s) URL that takes OpenTelemetry spans. None: no spans are made, "
        "because tracing costs CPU on every request.",
    )
    otlp_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of requests whose spans are sent. Requests that come with a traceparent "
        "go by its own flag; runs and rollouts are always sent, they are few.",
    )
    ray_address: str | None = Field(
        default=None, description="host:port of a Ray to join. None: start one here."
    )
    address: str | None = Field(
        default=None,
        description="URL of a running runtime for `aios.connect()`. None: the one that "
        "`aios up` noted in home.",
    )
    key: str | None = Field(
        default=None, repr=False, description="API key to call with. Never printed or logged."
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = (self.http_port, self.ray_port, self.dashboard_port)
        if len(set(ports)) < len(ports):
            raise ValueError("http_port, ray_port and dashboard_port must differ")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Argument > environment > file; dotenv and secret files are not read."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @classmethod
    def load(cls, **arguments: Any) -> Self:
        """Read all sources once.

        Args:
            arguments: settings by name; `None` means "not given", as a command line has it.

        Raises:
            UsageError: a key is unknown, a value is out of range, or `aios.toml` is not TOML.
        """
        known = tuple(cls.model_fields)
        _refuse_unknown(arguments, known, "argument")
        environment = [name for name in os.environ if name.startswith(PREFIX)]
        _refuse_unknown(environment, tuple(PREFIX + name.upper() for name in known), "variable")
        try:
            return cls(**{name: value for name, value in arguments.items() if value is not None})
        except ValidationError as error:
            raise UsageError(_explain(error, known)) from None
        except SettingsError as error:
            raise UsageError(f"{error}: a table is given as JSON in a variable") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{FILE} in {Path.cwd()} cannot be read: {error}") from None


def _flows_beside(store_url: str, home: Path) -> str:
    return store_url if store_url.startswith("postgres") else f"sqlite:///{home}/user-flows.db"


def _refuse_unknown(names: Any, known: tuple[str, ...], kind: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"unknown {kind} {name!r} in the settings.{hint} Known: {', '.join(known)}"
            )


def _explain(error: ValidationError, known: tuple[str, ...]) -> str:
    parts = []
    for fault in error.errors(include_url=False):
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden" and len(fault["loc"]) > 1:
            parts.append(f"unknown key {name!r}. Known: {', '.join(Prices.model_fields)}")
        elif fault["type"] == "extra_forbidden":
            parts.append(f"unknown key {name!r} in {FILE}. Known: {', '.join(known)}")
        elif fault["type"] != "default_factory_not_called":
            got = "" if name in ("", "key") else f" (got {str(fault['input'])[:80]!r})"
            parts.append(f"setting {name}: {fault['msg']}{got}" if name else fault["msg"])
    return "; ".join(parts)

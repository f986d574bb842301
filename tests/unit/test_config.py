"""Where settings come from, and what happens to those that do not exist."""

import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from aios.config import Settings
from aios.errors import UsageError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"AIOS_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_an_argument_beats_the_environment_which_beats_the_file_which_beats_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    assert Settings.load().http_port == 8000
    (tmp_path / "aios.toml").write_text("http_port = 8001\nray_port = 7001\n")
    assert Settings.load().http_port == 8001
    monkeypatch.setenv("AIOS_HTTP_PORT", "8002")
    assert Settings.load().http_port == 8002
    assert Settings.load(http_port=8003).http_port == 8003
    assert Settings.load(http_port=None).http_port == 8002
    assert Settings.load().ray_port == 7001


def test_urls_default_to_folders_in_home(tmp_path: Path):
    settings = Settings.load(home=tmp_path / "a")
    assert settings.store_url == f"sqlite:///{tmp_path}/a/aios.db"
    assert settings.artifacts_url == f"{tmp_path}/a/artifacts"
    assert settings.log_url == f"{tmp_path}/a/predictions"
    assert Settings.load(home="rel").home == tmp_path / "rel"
    assert Settings.load().home == Path.home() / ".aios"


def test_an_unknown_key_fails_wherever_it_stands_and_lists_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with pytest.raises(UsageError, match=r"'htp_port'.*Did you mean http_port.*dashboard_port"):
        Settings.load(htp_port=1)
    (tmp_path / "aios.toml").write_text("stor_url = 'x'\n")
    with pytest.raises(UsageError, match=r"'stor_url' in aios.toml.*Known: home, store_url"):
        Settings.load()
    (tmp_path / "aios.toml").unlink()
    monkeypatch.setenv("AIOS_HTTPPORT", "1")
    with pytest.raises(UsageError, match=r"'AIOS_HTTPPORT'.*AIOS_HTTP_PORT"):
        Settings.load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"http_port": 0}, "http_port"),
        ({"ray_port": "many"}, "ray_port"),
        ({"http_port": 6379}, "must differ"),
        ({"home": 7}, "home"),
    ],
)
def test_a_bad_value_is_named(arguments: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        Settings.load(**arguments)


@pytest.mark.parametrize("content", [b"http_port = ", b"\xff\xfe", b"[http_port]\nx = 1\n"])
def test_a_broken_file_is_a_usage_error(tmp_path: Path, content: bytes):
    (tmp_path / "aios.toml").write_bytes(content)
    with pytest.raises(UsageError):
        Settings.load()


def test_settings_are_frozen_travel_whole_and_hide_the_key(tmp_path: Path):
    settings = Settings.load(home=tmp_path, key="aios_me_secret")
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert "secret" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.http_port = 1


def test_every_setting_says_what_it_is_for():
    for name, field in Settings.model_fields.items():
        assert len(field.description or "") > 30, name


def test_prices_come_from_a_table_or_as_json_from_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    assert Settings.load().prices.hour("anything") is None
    (tmp_path / "aios.toml").write_text(
        '[prices]\ncurrency = "USD"\nnode_hours = {"m6i.xlarge" = 0.2}\n'
    )
    prices = Settings.load().prices
    assert (prices.hour("m6i.xlarge"), prices.hour("other")) == (0.2, None)
    monkeypatch.setenv("AIOS_PRICES", '{"currency": "EUR", "default_node_hour": 0.1}')
    prices = Settings.load().prices
    assert (prices.currency, prices.hour("other"), prices.gpu_share) == ("EUR", 0.1, 0.9)
    assert Settings.load(prices={"default_node_hour": 0.3}).prices.hour("other") == 0.3


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ('{"currency": "EUR", "default_node_hour": -1}', "prices.default_node_hour.*-1"),
        ('{"currency": "EUR", "default_node_hour": NaN}', "prices.default_node_hour.*finite"),
        ('{"currency": "EUR", "node_hours": {"a": "cheap"}}', "prices.node_hours.a.*cheap"),
        ('{"currency": "EUR", "gpu_share": 2}', "prices.gpu_share"),
        ('{"default_node_hour": 1}', 'prices need a currency, such as currency = "EUR"'),
        ('{"currency": "euros"}', "prices.currency"),
        ('{"curency": "EUR"}', "unknown key 'prices.curency'. Known: currency, default_node_hour"),
        ("0.10", "prices"),
        ("{", "prices.*given as JSON"),
    ],
)
def test_bad_prices_are_named(monkeypatch: pytest.MonkeyPatch, prices: str, message: str):
    monkeypatch.setenv("AIOS_PRICES", prices)
    with pytest.raises(UsageError, match=message):
        Settings.load()

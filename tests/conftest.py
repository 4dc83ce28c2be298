"""What every test stands on: no network, a home of its own, an empty working folder, one thread."""

import ipaddress
import os
import socket
from pathlib import Path

import pytest

USER_SETTINGS = (
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "HF_HOME",
    "CRYSTALFM_CACHE",
    "CRYSTALFM_MIRROR",
)
ASSET_CACHE = os.environ.get("CRYSTALFM_CACHE")
"""Cache of the person who runs the tests; only tests marked ``real_data`` may see it."""

# Set before any library reads them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_make_parametrize_id(val, argname):
    """Bytes never name a test: packed ones carry the time, and two workers would collect different tests."""
    return argname if isinstance(val, bytes) else None


def _is_local(address):
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = address[0]
    if host in {"", "localhost", None}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    """Connecting to anything but this machine is an error of the test, not of the network."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(address):
        if not _is_local(address):
            raise RuntimeError(f"a test tried to reach {address}")

    def guarded_connect(self, address):
        check(address)
        return connect(self, address)

    def guarded_connect_ex(self, address):
        check(address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host, *args, **kwargs):
        check((host.decode() if isinstance(host, bytes) else host, 0))
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    """Give the test an empty home and working folder and take away the user's settings."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in (
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "HF_HOME",
        "CRYSTALFM_CACHE",
        "CRYSTALFM_MIRROR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home)


@pytest.fixture
def asset_cache():
    """Cache with real data sets and weights, as named by ``CRYSTALFM_CACHE``; skips where there is none."""
    if ASSET_CACHE is None or not Path(ASSET_CACHE).is_dir():
        pytest.skip("needs real assets: set CRYSTALFM_CACHE to a cache filled by python -m crystalfm.fetch")
    return Path(ASSET_CACHE)


@pytest.fixture(scope="session")
def repository():
    """Root of the repository."""
    return Path(__file__).resolve().parents[1]

"""Every overlay, built with certificates of its own."""

import shutil

import pytest

from tests.support.manifests import LOADER, OVERLAYS, build, with_certificates


@pytest.fixture(scope="package")
def tree(tmp_path_factory):
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is absent (Debian's package kubernetes-client)")
    return with_certificates(tmp_path_factory.mktemp("kubernetes"))


@pytest.fixture(scope="package")
def builds(tree):
    overlays = {name: build(tree / "overlays" / name) for name in OVERLAYS}
    return {"base": build(tree / "base"), "loader": LOADER, **overlays}


@pytest.fixture(params=["base", "loader", *OVERLAYS])
def objects(request, builds):
    return builds[request.param]


@pytest.fixture(params=OVERLAYS)
def overlay(request, builds):
    return builds[request.param]

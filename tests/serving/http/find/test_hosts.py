"""A page of the web cannot read the pictures of who looks at it."""

import pytest

from tests.support.http_requests import KEY, error_of


@pytest.fixture(scope="module")
def local(make_client, db):
    return make_client(db=db, host="127.0.0.1")


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "127.0.0.1:8080", "127.0.0.2", "[::1]:80", "a.localhost"],
)
def test_this_machine_is_let_in(local, host):
    assert local.get("/v1/collection", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil:8080", "127.0.0.1.evil.example", "", "10.0.0.1"],
)
def test_other_names_are_not(local, host):
    for path in ("/v1/collection", "/thumb/" + "0" * 20):
        told = error_of(local.get(path, headers={"Host": host}), 421, "wrong_host")["message"]
    assert "key" in told
    answer = local.post("/v1/search", json={"query": "red"}, headers={"Host": host})
    error_of(answer, 421, "wrong_host")


def test_a_server_with_a_key_or_for_others_has_any_name(make_client, db):
    shown = {"Authorization": f"Bearer {KEY}", "Host": "pictures.example"}
    client = make_client(db=db, host="127.0.0.1", keys=[KEY])
    assert client.get("/v1/collection", headers=shown).status_code == 200
    client = make_client(db=db, host="0.0.0.0")
    answer = client.get("/v1/collection", headers={"Host": "pictures.example"})
    assert answer.status_code == 200

"""A suite as a team has it, which knows nothing of versions: with requests, and with what Python brings."""
import os
import urllib.request

import requests

CART = os.environ["CART_URL"]


def test_requests():
    answer = requests.get(CART + "/items/1", timeout=10)
    assert answer.status_code == 200
    print("answered:", answer.text)


def test_session():
    with requests.Session() as session:
        for item in range(3):
            assert session.post(CART + f"/items/{item}", data="x" * 10_000, timeout=10).status_code == 200


def test_urllib():
    with urllib.request.urlopen(CART + "/items/2", timeout=10) as answer:
        assert answer.status == 200


def test_tls():
    assert requests.get(CART.replace("http://", "https://"), timeout=10).status_code == 200

import pytest

import tool


@pytest.fixture(scope="session", autouse=True)
def built():
    tool.build()

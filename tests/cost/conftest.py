"""A machine that others use too can be slow for a whole measurement: it is then taken again."""

import pytest

TRIES = 3


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """Call a test of cost; call it again if it misses its limit, up to TRIES times in all."""
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    for left in reversed(range(TRIES)):
        try:
            pyfuncitem.obj(**arguments)
        except AssertionError as error:
            if not left:
                raise
            print(f"\nmeasured again, because of: {str(error).splitlines()[0]}")
        else:
            break
    return True

"""The documentation's table of kernels is what the budgets say."""

import table


def test_the_page_holds_the_table():
    """After a budget has changed: python tests/budget/table.py, and commit what it wrote."""
    assert table.written() == table.table()

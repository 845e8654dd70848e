"""The laws of the books, on objects that are (name, content) pairs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubeway.machines.books import Books, Shadowed

Thing = tuple[str, int]

things = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), max_size=5)
turns = st.lists(st.tuples(st.sampled_from(["f1", "f2", "f3"]), st.none() | things), max_size=12)


def books() -> Books[Thing]:
    return Books(lambda thing: thing[0])


def at_once(pages: dict[str, list[Thing]]) -> dict[str, Thing]:
    """What all files hold together, told without any history."""
    union: dict[str, Thing] = {}
    for path in sorted(pages, reverse=True):
        union.update({thing[0]: thing for thing in pages[path]})
    return union


@given(turns)
def test_turn_by_turn_equals_at_once(turns: list[tuple[str, list[Thing] | None]]) -> None:
    book, pages, held = books(), {}, {}
    for path, content in turns:
        if content is None:
            if path not in pages:
                continue
            del pages[path]
            turn = book.gone(path)
        else:
            pages[path] = content
            turn = book.page(path, content)
        for name, _ in turn.dropped:
            del held[name]  # KeyError: dropped what was not there
        for thing in turn.put:
            assert held.get(thing[0]) != thing, "a put that changes nothing"
            held[thing[0]] = thing
        assert held == at_once(pages)
        assert book.paths() == pages.keys()


@given(turns, st.sampled_from(["f1", "f2", "f3"]))
def test_the_same_page_again_is_no_news(turns: list[tuple[str, list[Thing] | None]], again: str) -> None:
    book, content = books(), None
    for path, page in turns:
        book.page(path, page or [])
        content = page or [] if path == again else content
    if content is not None:
        turn = book.page(again, content)
        assert turn.put == turn.dropped == []


def test_the_smaller_path_holds_whatever_came_first() -> None:
    book = books()
    assert book.page("b.yaml", [("x", 2)]).put == [("x", 2)]
    turn = book.page("a.yaml", [("x", 1)])
    assert turn.put == [("x", 1)]
    assert turn.shadowed == [Shadowed("x", "b.yaml", "a.yaml")]
    assert book.page("c.yaml", [("x", 3)]) == ([], [], [Shadowed("x", "c.yaml", "a.yaml")])


def test_the_next_takes_over_when_the_holder_goes() -> None:
    book = books()
    for path, number in (("a", 1), ("b", 2), ("c", 3)):
        book.page(path, [("x", number)])
    assert book.gone("a") == ([("x", 2)], [], [])
    assert book.page("b", []) == ([("x", 3)], [], [])
    assert book.gone("c") == ([], [("x", 3)], [])


def test_the_last_of_two_in_one_file_counts() -> None:
    turn = books().page("a", [("x", 1), ("x", 2)])
    assert turn == ([("x", 2)], [], [Shadowed("x", "a", "a")])


def test_an_equal_object_stays_the_same_object() -> None:
    book: Books[tuple[str, ...]] = Books(lambda thing: thing[0])
    first, equal = tuple("x1"), tuple("x1")
    assert first is not equal
    book.page("b", [first])
    book.page("b", [equal])
    book.page("a", [tuple("x2")])
    assert book.gone("a").put[0] is first

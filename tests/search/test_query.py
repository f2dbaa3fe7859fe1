import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ernie_vil2.errors import UserError
from ernie_vil2.search.query import Query, Term, parse_query

ID = "0123456789abcdef0123"


def terms(written, picture=None):
    return [
        (term.text if term.text is not None else term.id or term.image, term.weight)
        for term in parse_query(written, picture).terms
    ]


@pytest.mark.parametrize(
    "written, expected",
    [
        ("海边的猫", [("海边的猫", 1)]),
        ("  a cat  on the beach ", [("a cat  on the beach", 1)]),
        ("cat.jpg + 2:雪 - 人", [("cat.jpg", 1), ("雪", 2), ("人", -1)]),
        ("猫 － 0.5:狗 ＋ 2：雪", [("猫", 1), ("狗", -0.5), ("雪", 2)]),
        ("猫　-　狗", [("猫", 1), ("狗", -1)]),  # the space of a Chinese keyboard
        ("- 人", [("人", -1)]),
        ("- 2:人 + 雪", [("人", -2), ("雪", 1)]),
        ("+ 雪", [("雪", 1)]),
        (".5:a + 1.5:b", [("a", 0.5), ("b", 1.5)]),
        (f"id:{ID} + 雪", [(ID, 1), ("雪", 1)]),
        ('"a + b" - "c - d"', [("a + b", 1), ("c - d", -1)]),
        ('2:"101 dogs" + "say ""a + b"""', [("101 dogs", 2), ('say "a + b"', 1)]),
        (f'"id:{ID}"', [(f"id:{ID}", 1)]),
        ("a\n+ b", [("a", 1), ("b", 1)]),
        # ordinary text with all that looks like it
        ("T-shirt", [("T-shirt", 1)]),
        ("C++ book", [("C++ book", 1)]),
        ("-5 度", [("-5 度", 1)]),
        ("a+b -c", [("a+b -c", 1)]),
        ("10:30 的火车", [("10:30 的火车", 1)]),
        ("16:9", [("16:9", 1)]),
        ("note: cat", [("note: cat", 1)]),
        ('5" screen', [('5" screen', 1)]),
        ('"a" and "b"', [('"a" and "b"', 1)]),
        ("cat +", [("cat +", 1)]),
        ("-", [("-", 1)]),
        ("id:12", [("id:12", 1)]),
    ],
)
def test_what_is_read(written, expected):
    assert terms(written) == expected


@pytest.mark.parametrize(
    "written, message",
    [
        ("", "expected a text or picture to search for"),
        (" \n", "expected a text or picture to search for"),
        ("a + + b", "expected a text or picture after '+'"),
        ("- - b", "expected a text or picture after '-'"),
        ('"" + b', "expected a text between the quotes"),
        ("0:雪", "weight 0 of '0:雪': expected more than 0, at most 1000"),
        ("a + 1001:b", "weight 1001 of"),
        (" + ".join("a" * 33), "more than 32 terms"),
    ],
)
def test_mistakes_are_one_line(written, message):
    with pytest.raises(UserError) as error:
        parse_query(written)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_pictures_are_what_the_caller_says():
    files = {"cat.jpg": b"cat", "my dog.png": b"dog", "雪": b"snow"}
    assert terms("cat.jpg + 2:my dog.png - 人", files.get) == [(b"cat", 1), (b"dog", 2), ("人", -1)]
    assert terms('"cat.jpg" + 雪', files.get) == [("cat.jpg", 1), (b"snow", 1)]
    assert str(parse_query("2:cat.jpg - 人", files.get)) == "2:cat.jpg - 人"
    assert terms("cat.jpg") == [("cat.jpg", 1)]  # no file is read unasked


words = st.text(min_size=1, max_size=12).filter(lambda text: text.strip())
odd = st.text(alphabet='ab +-＋－"：:0129. 雪\n\t', min_size=1, max_size=12).filter(str.strip)
weights = st.one_of(
    st.just(1.0), st.integers(1, 1000).map(float), st.integers(1, 99).map(lambda x: x / 100)
)
queries = st.lists(
    st.builds(
        lambda text, weight, sign: Term(text=text.strip(), weight=weight * sign),
        st.one_of(words, odd),
        weights,
        st.sampled_from([1, -1]),
    ),
    min_size=1,
    max_size=5,
).map(lambda some: Query(tuple(some)))


@settings(deadline=None)
@given(queries)
@example(Query((Term(text='a" + b'), Term(text="2:b", weight=-1.0))))
@example(Query((Term(text='"'), Term(text='"'))))
@example(Query((Term(text="+"), Term(text="0"))))
def test_a_query_is_read_back_as_it_is_written(query):
    assert parse_query(str(query)) == query


@settings(deadline=None)
@given(st.text(alphabet='ab +-＋－"：:0129. 雪\n\t', max_size=30))
def test_any_text_is_a_query_or_one_line(written):
    try:
        query = parse_query(written)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert parse_query(str(query)) == query
        for term in query.terms:
            assert term.text.strip() and 0 < abs(term.weight) <= 1000


@settings(deadline=None)
@given(words)
def test_text_without_operators_and_weights_is_itself(text):
    text = " ".join(text.split())
    if not set('+-＋－:："') & set(text):
        assert terms(text) == [(text, 1)]


def test_sums_join_terms():
    query = Query.of_text("雪 + 人") + Query.of_picture(b"x", weight=0.5)
    assert [term.weight for term in query.terms] == [1, 0.5]
    assert str(query) == '"雪 + 人" + 0.5:picture'
    assert Query.like(ID).ids == {ID}

"""What the routes of a collection take and give: pydantic models and their examples."""

from typing import Annotated, Optional

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ernie_vil2.search.query import MOST_TERMS, MOST_WEIGHT
from ernie_vil2.search.searcher import MOST
from ernie_vil2.serving.http.schemas import EXAMPLE_IMAGE, Image

MOST_OF_A_PAGE = 500  # hits
_NAME = 4096  # characters of a folder
_TAGS = 32
_CENTURIES = 253_402_300_800  # seconds from 1970 to the year 10000

Seconds = Annotated[
    Optional[int],
    Field(ge=-_CENTURIES, le=_CENTURIES, description="since 1970, UTC", examples=[1714521600]),
]
Id = Annotated[
    str,
    StringConstraints(pattern="^[0-9a-f]{20}$"),
]

# -- Requests --------------------------------------------------------------------------------------


class PageRequest(BaseModel):
    """Which of the hits, and which pictures may be among them."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(20, ge=1, le=MOST_OF_A_PAGE, description="hits of this answer")
    offset: int = Field(0, ge=0, le=MOST, description="better hits to pass over")
    folder: Optional[str] = Field(
        None, max_length=_NAME, description="absolute; with the folders below"
    )
    after: Seconds = None
    before: Seconds = None
    tags: list[Annotated[str, StringConstraints(max_length=256)]] = Field(
        [], max_length=_TAGS, description="each of these"
    )
    minimum: Optional[float] = Field(None, ge=0, le=1, description="least relevance of a hit")
    fold: bool = Field(True, description="make one hit of near-duplicates")


class SearchRequest(PageRequest):
    """Words, pictures, or both: their embeddings are added."""

    query: str = Field(
        "",
        max_length=20_000,
        description="terms joined by + and - between spaces, 2: before one for its weight, in "
        "quotes for text as it is, or id: and the id of a picture of the collection",
        examples=["海边的猫", "2:snow + cat - people"],
    )
    images: list[Image] = Field(
        [],
        max_length=MOST_TERMS,
        examples=[[EXAMPLE_IMAGE]],
        description="encoded images; in place of one that was sent lately, what `images` of the "
        "answer calls it",
    )
    weights: list[Annotated[float, Field(ge=-MOST_WEIGHT, le=MOST_WEIGHT)]] = Field(
        [], max_length=MOST_TERMS, description="of the images, below 0: away from it; else 1 each"
    )


# -- Answers ---------------------------------------------------------------------------------------


class PictureInfo(BaseModel):
    """What is told of a picture."""

    id: str
    path: str
    taken: str = Field(description="ISO 8601, UTC", examples=["2024-05-01T12:00:00Z"])
    width: int
    height: int
    tags: list[str]


class Duplicates(BaseModel):
    count: int
    ids: list[str]


class HitInfo(PictureInfo):
    cosine: float = Field(description="with the query")
    relevance: Optional[float] = Field(
        description="share of random queries whose best hit stands out less; null where there are "
        "too few pictures to say"
    )
    likely: bool = Field(description="whether it is above the line; below is what any query finds")
    duplicates: Duplicates = Field(description="near-duplicates folded into this hit")


class SearchResponse(BaseModel):
    query: str = Field(description="as it was understood")
    images: list[str] = Field(description="how each image may be called in the next requests")
    hits: list[HitInfo]
    offset: int
    next: Optional[int] = Field(description="offset of the next page; null: this is the last one")
    total: int = Field(
        description=f"hits that one can go on to, at most {MOST}; with folding an upper bound "
        "until one is there"
    )
    line: Optional[int] = Field(description="how many of them are likely; null: it is not known")


class Counted(BaseModel):
    name: str
    count: int


class Indexing(BaseModel):
    done: int
    total: int
    percent: int


class CollectionResponse(BaseModel):
    name: str = Field(description="what it was named by")
    count: int = Field(description="pictures in it")
    indexing: Optional[Indexing] = Field(description="null: nobody is at it")
    folders: list[Counted] = Field(description="with those below, the fullest first")
    tags: list[Counted] = Field(description="the most frequent first")
    oldest: Optional[int] = Field(description="seconds since 1970, UTC")
    newest: Optional[int] = Field(description="the same")
    complete: bool = Field(description="whether folders, tags and dates have been counted yet")

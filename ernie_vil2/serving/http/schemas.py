"""What the HTTP server takes and gives: pydantic models and their examples."""

from typing import Annotated, Any, Literal, Optional, TypeVar, Union

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

# A 16 x 16 PNG, so that the examples of the documentation can be sent as they stand.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAHElEQVR42mO4o6ZGEmIY1TCqYVTDqAZqaRgsGgC2"
    "7QUQ2o2I0AAAAABJRU5ErkJggg=="
)

Encoding = Annotated[
    Literal["float", "base64"],
    Field(description="of an embedding: a list of numbers, or base64 of little-endian float32"),
]


# bytes: a file of a multipart form, which JSON cannot hold
Image = Annotated[
    Union[str, bytes],
    WithJsonSchema({"type": "string", "description": "an encoded image as base64 (RFC 4648, 4)"}),
]


# -- Requests --------------------------------------------------------------------------------------


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextsRequest(_Request):
    texts: list[str]
    encoding: Encoding = "float"


class ImagesRequest(_Request):
    images: list[Image]
    encoding: Encoding = "float"


class SimilarityRequest(_Request):
    texts: list[str]
    images: list[Image]


class ClassifyRequest(_Request):
    images: list[Image]
    labels: Optional[list[str]] = None
    templates: Optional[list[str]] = None
    top: Optional[int] = None


class Requests:
    """The request models, each with lists of at most `max_items`, which OpenAPI then states.

    Attributes:
        Texts, Images, Similarity, Classify: the classes.
    """

    def __init__(self, max_items: int):
        self._max_items = max_items
        texts = self._some(list[str], ["一只猫", "a photo of a dog"])
        images = self._some(list[Image], [EXAMPLE_IMAGE])
        names = ["猫", "狗"]
        labels = self._some(
            list[str],
            names,
            description="default: the classes that were exported with the model",
        )
        top = Annotated[
            int,
            Field(
                ge=1,
                description="answer with so many labels of each image, the most probable first, "
                "not with the numbers of all",
            ),
        ]
        templates = self._some(
            list[str],
            ["一张{}的图片", "a photo of {}"],
            description="prompts with {} for the label; default: the exported model's. At most "
            f"{max_items} images and prompts, labels times templates, in all",
        )
        self.Texts = _with(TextsRequest, texts=(texts, ...))
        self.Images = _with(ImagesRequest, images=(images, ...))
        self.Similarity = _with(SimilarityRequest, texts=(texts, ...), images=(images, ...))
        self.Classify = _with(
            ClassifyRequest,
            images=(images, ...),
            # an example within Optional would stand where no reader of the schema looks
            labels=(Optional[labels], Field(None, examples=[names])),
            templates=(Optional[templates], None),
            top=(Optional[top], None),
        )

    def _some(self, kind: Any, example: list, **more: Any) -> Any:
        """The type of a list: not empty, and not too long."""
        bounds = Field(min_length=1, max_length=self._max_items, examples=[example], **more)
        return Annotated[kind, bounds]


_Model = TypeVar("_Model", bound=_Request)


def _with(model: type[_Model], **fields: Any) -> type[_Model]:
    """A model of the same name with other types of some fields."""
    return create_model(model.__name__, __base__=model, **fields)


# -- Answers ---------------------------------------------------------------------------------------


class ErrorDetail(BaseModel):
    code: str = Field(examples=["bad_image"])
    message: str = Field(examples=["not an image: 5 bytes that begin with b'hello'"])
    index: Optional[int] = Field(None, description="of the item that it is about")


class ErrorResponse(BaseModel):
    error: ErrorDetail


class Embedding(BaseModel):
    """Either an embedding or an error."""

    index: int
    embedding: Optional[Union[list[float], str]] = Field(None, description="L2-normalised")
    error: Optional[ErrorDetail] = None


class EmbedResponse(BaseModel):
    dim: int = Field(description="numbers of an embedding")
    results: list[Embedding] = Field(description="one for each item, in its order")


class FailedItem(ErrorDetail):
    input: Literal["texts", "images"]


class SimilarityResponse(BaseModel):
    """Row: text, column: image; null where one of the two is in `errors`."""

    cosine: list[list[Optional[float]]]
    logits: list[list[Optional[float]]] = Field(description="logit_scale * cosine")
    logit_scale: float
    errors: list[FailedItem]


class Probable(BaseModel):
    label: str
    probability: float
    cosine: float


class Classification(BaseModel):
    """Either a label with all labels' numbers, or those of the most probable, or an error."""

    index: int
    label: Optional[str] = Field(None, description="the most probable one")
    probabilities: Optional[list[float]] = Field(
        None, description="in the labels' order: softmax of logit_scale * cosine"
    )
    cosine: Optional[list[float]] = None
    top: Optional[list[Probable]] = Field(None, description="where `top` was asked for")
    error: Optional[ErrorDetail] = None


class ClassifyResponse(BaseModel):
    labels: Optional[list[str]] = Field(None, description="unless `top` was asked for")
    results: list[Classification] = Field(description="one for each image, in its order")


class Status(BaseModel):
    status: str

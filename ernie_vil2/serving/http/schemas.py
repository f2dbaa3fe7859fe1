"""What the HTTP server takes and gives: pydantic models and their examples."""

from typing import Annotated, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

# A 16 x 16 PNG, so that the examples of the documentation can be sent as they stand.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAHElEQVR42mO4o6ZGEmIY1TCqYVTDqAZqaRgsGgC2"
    "7QUQ2o2I0AAAAABJRU5ErkJggg=="
)

Encoding = Annotated[
    Literal["float", "base64"],
    Field(description="of an embedding: a list of numbers, or base64 of little-endian float32"),
]


# -- Requests --------------------------------------------------------------------------------------


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


# bytes: a file of a multipart form, which JSON cannot hold
_Image = Annotated[
    Union[str, bytes],
    WithJsonSchema({"type": "string", "description": "an encoded image as base64 (RFC 4648, 4)"}),
]


class Requests:
    """The request models for given limits, which OpenAPI then states.

    Attributes, each a class: `Texts`, `Images`, `Similarity`, `Classify`.
    """

    def __init__(self, max_items: int):
        def some(item, examples: list, **more):
            return Annotated[
                list[item], Field(min_length=1, max_length=max_items, examples=[examples], **more)
            ]

        Texts = some(str, ["一只猫", "a photo of a dog"])
        Images = some(_Image, [EXAMPLE_IMAGE])
        Labels = some(str, ["猫", "狗"])
        Templates = some(
            str,
            ["一张{}的图片", "a photo of {}"],
            description="prompts with {} for the label; default: the exported model's. At most "
            f"{max_items} images and prompts, labels times templates, in all",
        )

        class TextsRequest(_Request):
            texts: Texts
            encoding: Encoding = "float"

        class ImagesRequest(_Request):
            images: Images
            encoding: Encoding = "float"

        class SimilarityRequest(_Request):
            texts: Texts
            images: Images

        class ClassifyRequest(_Request):
            images: Images
            labels: Labels
            templates: Optional[Templates] = None

        self.Texts, self.Images = TextsRequest, ImagesRequest
        self.Similarity, self.Classify = SimilarityRequest, ClassifyRequest


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


class Classification(BaseModel):
    """Either a label with all labels' numbers or an error."""

    index: int
    label: Optional[str] = Field(None, description="the most probable one")
    probabilities: Optional[list[float]] = Field(
        None, description="in the labels' order: softmax of logit_scale * cosine"
    )
    cosine: Optional[list[float]] = None
    error: Optional[ErrorDetail] = None


class ClassifyResponse(BaseModel):
    labels: list[str]
    results: list[Classification] = Field(description="one for each image, in its order")


class Status(BaseModel):
    status: str

"""Interface of a model family, for training and for generation in this process. Importing it needs no torch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from chiron.providers.local.dialogue import ChatFormat, system_text
from chiron.providers.local.tiling import ImageLayout, Tiling

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModelFamily(ABC):
    """An architecture: its template, how it sees images, and the names of its parts.

    All have a transformers model with a language model, a vision tower and ``lm_head``.
    """

    model_type: str
    """``model_type`` in ``config.json``."""
    name: str
    architecture: str
    """Name of the transformers class; its configuration has the same name with ``Config`` at the end."""
    checkpoints: str
    """Published checkpoints of this family, for people."""
    converts: str | None = None
    """Other layout that ``chiron convert`` reads and writes; None: no conversion."""

    image_tokens: ClassVar[tuple[str, str, str] | None] = None
    """Tokens before, for, and after an image; None: those that the tokenizer names."""
    image_placeholder: ClassVar[str]
    """What stands for an image in a chat template."""
    image_separator: ClassVar[str]
    """Separator between an image and adjacent text, as in the published training."""
    chat: ClassVar[ChatFormat] = ChatFormat()
    """Tokens around turns; the default is ChatML."""
    default_system: ClassVar[str | None] = None
    """System message of the published template for conversations without one."""
    images: ClassVar[str] = "own resolution"
    """How images are seen, for people."""
    tiled: ClassVar[bool] = False
    """Whether images are cut into InternVL's tiles, which a recipe can set."""
    needs_processor: ClassVar[bool] = True
    """Whether a checkpoint needs ``preprocessor_config.json``."""
    vision_tower: ClassVar[str]
    """Attribute of ``model.model``."""
    lora_parts: ClassVar[tuple[str, ...]] = ("language", "projector", "vision")
    """Parts with linear layers, which LoRA can adapt."""
    own_masks: ClassVar[bool] = False
    """Whether :meth:`packed_mask` makes the attention mask. Otherwise transformers does, from the positions."""
    sliding_window: ClassVar[bool] = False
    """Whether :meth:`language_inputs` handles layers that attend only to the last tokens."""

    @property
    def config_class(self) -> str:
        """Name of the configuration's class in transformers."""
        return self.architecture.removesuffix("ForConditionalGeneration") + "Config"

    def system(self, named: str | None) -> str | None:
        """Return the text of a system message by name or text (``none``: no message); by default, that of the published template."""
        return self.default_system if named is None else system_text(named)

    def dialogue_settings(self, config: Any, layout: ImageLayout, system: str | None) -> dict[str, Any]:
        """Return the keyword arguments of :class:`~chiron.providers.local.dialogue.DialogueTokens`; ``system`` is the message's text."""
        return {
            "tiling": layout,
            "tokens_per_tile": self.tokens_per_tile(config),
            "chat": replace(self.chat, system=system),
            "image_tokens": self.image_tokens,
        }

    @abstractmethod
    def layout(self, config: Any, source: str | None, *, tiling: Tiling, limit: int | None = None) -> ImageLayout:
        """Return how the model sees images.

        Args:
            config: the model's configuration.
            source: folder or hub id with ``preprocessor_config.json``; None for a model built from a configuration.
            tiling: for families with tiles. Its tile side is replaced by that of the model.
            limit: value of the key :attr:`~chiron.providers.local.tiling.ImageLayout.limit` of a recipe's ``images``. Larger images are
                scaled down.

        Raises:
            InputError: the image processor's settings do not belong to the model.
        """

    @abstractmethod
    def tokens_per_tile(self, config: Any) -> int:
        """Return the image tokens per tile, or 1 if images are not cut into tiles."""

    def patches_per_tile(self, config: Any) -> int:
        """Return the positions of the vision tower per tile, or per image token if images are not cut into tiles."""
        return int(config.vision_config.image_size // config.vision_config.patch_size) ** 2

    def features(self, model: Any, inputs: "dict[str, Tensor]") -> "Tensor":
        """Encode one image, ``(tokens, hidden)``; ``inputs``: see :meth:`~chiron.providers.local.tiling.ImageLayout.model_inputs`.

        A family whose layers get features of their own appends them: ``(tokens, hidden + others)``.
        """
        found: Tensor
        (found,) = model.model.get_image_features(**inputs).pooler_output
        return found

    def language_inputs(self, embeddings: "Tensor", mask: "Tensor", config: Any, blocks: "Tensor | None" = None) -> dict[str, Any]:
        """Return the language model's inputs for ``embeddings`` ``(rows, n, hidden)``, or wider with features of :meth:`features`.

        ``config``: the language model's. ``mask``: ``(rows, 1, n, columns)``, true where a token may attend. ``blocks``: ``(rows, n)``, the
        number of each token's image, or -1; None: the tokens have no images.
        """
        del config, blocks
        # Transformers uses a mapping unchanged and does not create another mask from it.
        return {"inputs_embeds": embeddings, "attention_mask": {"full_attention": mask}}

    def packed_mask(self, config: Any, input_ids: "Tensor", position_ids: "Tensor") -> Any:
        """Return the attention mask of packed lines. None: transformers separates rows where ``position_ids`` restart."""
        del config, input_ids, position_ids

    def token_types(self, config: Any, input_ids: "Tensor") -> "dict[str, Tensor]":
        """Return further inputs of transformers' ``generate`` for a prompt with images: which of its tokens are of images."""
        del config, input_ids
        return {}

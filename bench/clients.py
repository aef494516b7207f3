"""CPU a request of this project's client: 200 at once, a 50 ms endpoint, prompts of 1.8 KB, with and without an image of 47 KB."""

import asyncio
import tempfile
from hashlib import sha256
from pathlib import Path

from PIL import Image

from bench.cost_of_a_call import cpu_seconds
from bench.simulated import simulated
from bench.table import heading, table
from chiron.client.call import Call, ImagePart, Message, TextPart
from chiron.client.config import OpenAIModel
from chiron.client.images import PictureStore
from chiron.providers.openai_compatible import OpenAICompatible
from tests.support.cases import write_cases

CALLS = 4000


async def measure(url: str, pictures: PictureStore, parts: tuple[TextPart | ImagePart, ...]) -> float:
    """CPU ms a request."""
    client = OpenAICompatible("intern-a", OpenAIModel(provider="openai", base_url=url, model="intern-a"), pictures)
    places = asyncio.Semaphore(200)

    async def one(n: int) -> None:
        async with places:
            await client.complete(Call("intern", "intern-a", "i", (Message("user", (*parts, TextPart(str(n)))),), 0.2, 64))

    await one(0)
    began = cpu_seconds()
    await asyncio.gather(*(one(n) for n in range(CALLS)))
    used = cpu_seconds() - began
    await client.close()
    return 1000 * used / CALLS


def main() -> None:
    """Print the table."""
    heading("The client alone")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = write_cases(folder, 1)
        image = folder / "noise.png"
        Image.effect_noise((216, 216), 80).save(image)
        digest, pictures = sha256(image.read_bytes()).hexdigest(), PictureStore()
        pictures.add(digest, image)
        words = TextPart("x" * 1800)
        with simulated(cases, seconds={"intern": 0.05}) as url:
            plain = asyncio.run(measure(url, pictures, (words,)))
            with_image = asyncio.run(measure(url, pictures, (ImagePart(digest, 1024), words)))
    table(["requests", "CPU ms a request", f"with an image of {image_size(216)}"], [[CALLS, plain, with_image]])


def image_size(side: int) -> str:
    """Of the noise image."""
    return f"about {side * side / 1024:.0f} KB"


if __name__ == "__main__":
    main()

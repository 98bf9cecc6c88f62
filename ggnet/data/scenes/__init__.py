"""The bundled dataset: drawn scenes of people and objects, made from a seed.

What a person does is not written in any one place: the verb follows from the person's pose and the
object's state together (`recipe.TABLE`), and both show on the far sides of the pair.
"""

from ggnet.data.scenes.generate import generate
from ggnet.data.scenes.stats import statistics

__all__ = ["generate", "statistics"]

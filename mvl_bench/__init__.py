"""Mask parts of an image or of its caption and reconstruct them: joint masked vision-and-language modelling.

    import mvl_bench as mvl

    model = mvl.load("maskvlm-tiny")
    result = mvl.reconstruct(model, "me.png", "a red ball on grass", patches=range(20, 44))
    result.plot()

Each public name is imported from its module at its first use, so that `import mvl_bench` loads neither torch nor numpy.
"""

from importlib import import_module

__version__ = "0.1.0"

_MODULES = {  # public name -> the module that defines it
    "load": "models.registry",
    "reconstruct": "api",
    "open_dataset": "api",
    "train": "api",
    "finetune": "api",
    "evaluate": "api",
    "MaskVLM": "models.maskvlm",
    "MLIM": "models.mlim",
    "Scenes": "data.scenes",
    "MaskBoard": "apps.widgets.board",
    "show_image": "viz.base",
    "show_masked": "viz.base",
    "show_losses": "viz.training",
    "UserError": "core",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    "Import a public name at its first use; raise `AttributeError` for any other name."
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    "List what is imported already and every public name."
    return sorted({*globals(), *_MODULES})

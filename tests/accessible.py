"What axe-core objects to in a page."

from axe_playwright_python.sync_playwright import Axe


def objections(page, part=None):
    "Every rule that is broken, with the first three places where it is."
    found = Axe().run(page, context=part).response["violations"]
    return [
        f"{one['id']}: {one['help']}: "
        + " | ".join(str(node["target"]) for node in one["nodes"][:3])
        for one in found
    ]

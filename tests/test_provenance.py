import hashlib
import json

from boneage.provenance import file_digest, provenance


def test_provenance_names_versions_device_and_cores_in_json():
    values = json.loads(json.dumps(provenance()))
    assert values["versions"]["keras"].startswith("3.")
    assert values["device"]
    assert values["cores"] >= 1


def test_a_digest_is_the_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "film.png"
    path.write_bytes(b"film")
    assert file_digest(path) == hashlib.sha256(b"film").hexdigest()

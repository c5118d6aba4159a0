from boneage.runtime.extras import install_command


def test_in_an_image_a_missing_package_is_to_be_installed_elsewhere(monkeypatch):
    assert install_command("openvino") == 'pip install "boneage[export]"'
    monkeypatch.setenv("BONEAGE_IMAGE", "cpu")
    assert "outside of the image cpu" in install_command("openvino")

import pytest
import roofline


def test_the_document_has_the_numbers_of_the_kernel(simt):
    """After a deliberate change: make simt-budget, and commit what it wrote."""
    if not simt.traced:
        pytest.skip("needs GGNET_SIMT_VARIANT=traced")
    assert roofline.DOCUMENT.read_text() == roofline.document(simt)

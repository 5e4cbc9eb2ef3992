//! Parts of documents that are made from tables in the code, so that they cannot differ. For tests.

/// Holds what stands in `docs/<document>` between `<!-- <part>:begin -->` and `<!-- <part>:end -->` to
/// `right`; with `UPDATE_DOCS=1` it writes it instead.
pub(crate) fn hold(document: &str, part: &str, right: &str) {
    let path = format!("{}/docs/{document}", env!("CARGO_MANIFEST_DIR"));
    let (begin, end) = (
        format!("<!-- {part}:begin -->\n"),
        format!("<!-- {part}:end -->"),
    );
    let docs = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = docs.split_once(&begin).unwrap();
    let (_, after) = rest.split_once(&end).unwrap();
    let right = [before, &begin, right, &end, after].concat();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, right).unwrap();
    } else {
        assert!(
            docs == right,
            "run UPDATE_DOCS=1 cargo test --lib reference"
        );
    }
}

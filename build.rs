//! Compiles the protos under `proto/` in pure Rust (protox), so that building needs no `protoc`.
//! Clients go into the library; servers into a folder of their own, for the scripted Xray of the
//! tests.
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    protos(Path::new("proto/xray"), &mut files)?;
    files.sort();
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(&files, ["proto"])?;

    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .include_file("xray.rs")
        .compile_fds_with_config(descriptors.clone(), named())?;

    let servers = PathBuf::from(std::env::var("OUT_DIR")?).join("servers");
    std::fs::create_dir_all(&servers)?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".xray", "::xray_agent::xray::proto::xray")
        .out_dir(servers)
        .compile_fds_with_config(descriptors, named())?;
    Ok(())
}

/// Messages that know their full names: Xray wants them beside each account and operation.
fn named() -> tonic_prost_build::Config {
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    config
}

fn protos(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

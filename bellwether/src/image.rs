//! `bellwether image`: file system images from directories, initramfs images,
//! ISOs and cloop images.

use crate::args::Image;
use crate::failure::Failure;
use crate::interrupted;
use crate::output::{Progress, epoch_given, file_time, size};
use cmdline::json::Json;
use cpio_builder::error::Error;
use cpio_builder::fsimage::{self, Format, Input, Spec};
use cpio_builder::tools::Draft;
use std::fs;
use std::path::PathBuf;

/// Runs the subcommand.
pub fn run(what: &Image) -> Result<(), Failure> {
    let usage = |text: &str| Failure::Usage(format!("{text}; see 'bellwether image --help'"));
    let (output, format) = match (&what.output, &what.stage2) {
        (Some(_), Some(_)) => return Err(usage("-o and --stage2 together")),
        (None, None) => return Err(usage("-o says where to write the image, and is missing")),
        (Some(output), None) => {
            let format = what.format.or_else(|| Format::from_path(output));
            let unknown = || usage("--format is missing, and the file's name does not tell it");
            (output.clone(), format.ok_or_else(unknown)?)
        }
        (None, Some(dir)) => {
            stage2(dir, what.format.unwrap_or(Format::Squashfs)).map_err(|why| usage(&why))?
        }
    };
    if what.size.is_some() && format != Format::Ext2 {
        return Err(usage("--size is for ext2: other images are as large as they need to be"));
    }
    if let Some(dir) = output.parent().filter(|_| what.stage2.is_some()) {
        fs::create_dir_all(dir).map_err(Error::write(dir))?;
    }
    let input = Input::open(&what.from)?;
    let mtime = file_time()?;
    let spec = Spec { format, size: what.size, mtime, clamp: epoch_given() };
    interrupted::expect()?;
    let draft = Draft::new(&output)?;
    let mut progress = Progress::new(if what.verity { "bytes" } else { "blocks" });
    fsimage::make(&spec, &what.from, &input, &draft, &mut |w, n, all| progress.tell(w, n, all))?;
    draft.keep()?;
    let hash = match what.verity {
        true => Some(fsimage::add_verity(&output, &mut |w, n, all| progress.tell(w, n, all))?),
        false => None,
    };
    let bytes = fs::metadata(&output).map_or(0, |meta| meta.len());
    if what.json {
        let mut json = Json::new();
        json.object().field("output", &output.to_string_lossy()).field("format", format.name());
        json.count("bytes", bytes).maybe_field("root_hash", hash.as_deref()).end_object();
        println!("{}", json.finish());
        return Ok(());
    }
    eprintln!(
        "{}: {}, {}",
        output.display(),
        format.name(),
        size(usize::try_from(bytes).unwrap_or(usize::MAX))
    );
    if let Some(hash) = hash {
        eprintln!(
            "{}.verity: its hash tree; on the kernel's line: bw.verity={hash}",
            output.display()
        );
    }
    Ok(())
}

/// Where stage 1 looks: `DIR/install/stage2/rescue.*`.
fn stage2(dir: &std::path::Path, format: Format) -> Result<(PathBuf, Format), String> {
    let name = match format {
        Format::Squashfs => "rescue.sqfs",
        Format::Cloop => "rescue.clp",
        _ => return Err(format!("a stage 2 is squashfs or clp, not {}", format.name())),
    };
    Ok((dir.join("install/stage2").join(name), format))
}

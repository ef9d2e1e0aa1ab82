//! `bellwether iso`: a live system on a medium.

use crate::args::{Boot, Iso};
use crate::failure::Failure;
use crate::interrupted;
use crate::medium::{DIR, Parts, parts, usage};
use crate::output::{Progress, epoch_given, file_time, size};
use cpio_builder::container::check_squashfs;
use cpio_builder::error::Error;
use cpio_builder::fsimage::{self, Format, Input};
use cpio_builder::media::{self, Medium};
use cpio_builder::tools::{Draft, Workplace};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Runs the subcommand.
pub fn run(what: &Iso) -> Result<(), Failure> {
    let Some(output) = &what.output else {
        return Err(usage("-o says where to write the ISO, and is missing"));
    };
    if what.root.is_none() && what.kernel.is_none() {
        let why = "--root names the live system's root directory or image, and is missing; \
                   see 'bellwether iso --help'";
        return Err(usage(why));
    }
    let boot = Boot { root: what.root.as_deref(), ..what.boot() };
    let kernel = boot.kernel()?;
    media::check_iso()?;
    interrupted::expect()?;
    let draft = Draft::new(output)?;
    let work = Workplace::new(&output.with_extension("parts"))?;
    let Parts { mut files, mut menu } = parts(&boot, kernel, &work, "/")?;
    let mtime = file_time()?;
    if let Some(root) = &what.root {
        let (name, image) = root_image(root, mtime, &work)?;
        if what.verity {
            // The tree and the hash lie beside the image.
            let near = match image.starts_with(work.join("")) {
                true => image.clone(),
                false => {
                    let copy = work.join(&name);
                    fs::copy(&image, &copy).map_err(Error::write(&copy))?;
                    copy
                }
            };
            let mut progress = Progress::new("bytes");
            let hash = fsimage::add_verity(&near, &mut |w, n, all| progress.tell(w, n, all))?;
            for entry in &mut menu.entries {
                entry.append = format!("{} bw.verity={hash}", entry.append);
            }
            let tree = PathBuf::from(format!("{}.verity", near.display()));
            files.push((format!("{DIR}/{name}.verity"), tree));
            files.push((format!("{DIR}/{name}"), near));
        } else {
            files.push((format!("{DIR}/{name}"), image));
        }
    }
    files.extend(what.include.iter().map(|i| (i.to.clone(), i.from.clone())));
    let label = what.label.clone().unwrap_or_else(|| "BELLWETHER".to_owned());
    let medium = Medium { label, menu, files, mtime };
    media::iso(&medium, &draft)?;
    let bytes = fs::metadata(draft.path()).map_or(0, |meta| meta.len());
    draft.keep()?;
    eprintln!(
        "{}: {}, boots from optical drives and sticks, by BIOS and UEFI; try: bellwether try {}",
        output.display(),
        size(usize::try_from(bytes).unwrap_or(usize::MAX)),
        output.display()
    );
    Ok(())
}

/// The root as an image that live-boot's words find: squashfs as it is, a
/// directory made into one.
fn root_image(root: &Path, mtime: u32, work: &Workplace) -> Result<(String, PathBuf), Failure> {
    use std::io::Read;
    if root.is_dir() {
        let path = work.join("filesystem.squashfs");
        let draft = Draft::new(&path)?;
        let spec =
            fsimage::Spec { format: Format::Squashfs, size: None, mtime, clamp: epoch_given() };
        fsimage::make(&spec, root, &Input::Dir(root.into()), &draft, &mut |_, _, _| ())?;
        draft.keep()?;
        return Ok(("filesystem.squashfs".into(), path));
    }
    let fail = |source| Error::Read { path: root.into(), source };
    let mut head = Vec::new();
    File::open(root).and_then(|f| f.take(2048).read_to_end(&mut head)).map_err(fail)?;
    let name = match () {
        () if head.starts_with(b"hsqs") => "filesystem.squashfs",
        () if head.get(1024..1028) == Some(&[0xe2, 0xe1, 0xf5, 0xe0]) => "filesystem.erofs",
        () if head.get(1080..1082) == Some(&[0x53, 0xef]) => "filesystem.ext2",
        () => {
            return Err(Failure::Failed(format!(
                "{} is no directory, squashfs, erofs or ext2 image; see 'bellwether image --help'",
                root.display()
            )));
        }
    };
    if name == "filesystem.squashfs" {
        check_squashfs(root)?;
    }
    Ok((name.to_owned(), root.to_owned()))
}

//! From what was found to a root at [`ROOT`]: images mounted, stacked, made writable.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::plan::{UnionKind, UnionPlan, Upper, Writable};
use overlay::image;
use overlay::union::mount_overlay;
use rustix::mount::{MountFlags, mount, mount_bind_recursive};
use sys::file::make_dir;
use sys::mount::detach;

use crate::images::Layer;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::source::{Found, Root};
use crate::trace::Failure;

/// Where the new root is put together.
pub const ROOT: &str = "/sysroot";

/// Modules worth loading while the source is still being looked for.
#[must_use]
pub fn modules_for(writable: &Writable) -> &'static [&'static str] {
    match writable {
        Writable::AsIs { .. } => &[],
        _ => &["loop", "overlay"],
    }
}

/// Makes a writable root of what was found.
///
/// # Errors
/// The layer or the union that could not be mounted.
pub fn stack(
    machine: &mut Machine,
    found: &Found,
    writable: &Writable,
    layout: Layout,
) -> Result<(), Failure> {
    make_dir(ROOT, 0o755).map_err(|errno| Failure::new("make the root", ROOT, errno))?;
    let layers: Vec<String> = match &found.root {
        Root::Tree(tree) => Vec::from([tree.clone()]),
        Root::Layers(layers) => {
            let mut mounted = Vec::new();
            for layer in layers {
                mounted.push(mount_layer(machine, layer, layout)?);
            }
            mounted
        }
    };
    match writable {
        Writable::AsIs { .. } => match layers.as_slice() {
            [tree] if tree == ROOT => Ok(()),
            [tree] => mount_bind_recursive(tree.as_str(), ROOT)
                .map_err(|errno| Failure::new("put the root in place", tree, errno)),
            several => {
                machine.require("overlay");
                mount_overlay(several, None, &[], ROOT)
                    .map_err(|error| Failure::new("stack the layers", "overlay", error))
            }
        },
        Writable::Union(union) | Writable::ByImage { union, .. } => {
            stack_union(machine, &layers, union, layout)
        }
        _ => Err(Failure::new(
            "make the root writable",
            "the root",
            "this build of /init cannot do this yet; use an overlay",
        )),
    }
}

fn mount_layer(machine: &mut Machine, layer: &Layer, layout: Layout) -> Result<String, Failure> {
    if layer.is_dir {
        return Ok(layer.path.clone());
    }
    let target = format!("{}/{}", layout.images, layer.name);
    let fail = |why: String| Failure::new("mount the layers", &layer.path, why);
    make_dir(&target, 0o755).map_err(|errno| fail(errno.to_string()))?;
    let found = image::inspect(&layer.path).map_err(|error| fail(error.why.to_string()))?;
    machine.require("loop");
    if let Some(fs_type) = found.format.fs_type() {
        machine.require(&format!("fs-{fs_type}"));
    }
    machine.log.detail(&format!("mounting {} ({}) at {target}", layer.path, found.format));
    image::mount(&layer.path, &found, &target, true)
        .map_err(|error| fail(error.why.to_string()))?;
    Ok(target)
}

fn stack_union(
    machine: &mut Machine,
    layers: &[String],
    plan: &UnionPlan,
    layout: Layout,
) -> Result<(), Failure> {
    let fail = |what: &str, why: &dyn ToString| {
        Failure::new("make the root writable", what, why.to_string())
    };
    let size = match &plan.upper {
        Upper::Tmpfs { size } => size.as_str(),
        Upper::Persistent(_) => {
            machine.log.warn(
                "this build of /init cannot keep changes yet: they will be lost at power-off",
            );
            ""
        }
    };
    if plan.kind == UnionKind::Aufs {
        machine.log.warn("aufs is not in this kernel; using overlayfs");
    }
    machine.require("overlay");
    make_dir(layout.upper, 0o755).map_err(|errno| fail(layout.upper, &errno))?;
    let mut options = String::from("mode=0755");
    if !size.is_empty() {
        options.push_str(",size=");
        options.push_str(size);
    }
    let data = alloc::ffi::CString::new(options).unwrap_or_default();
    mount("tmpfs", layout.upper, "tmpfs", MountFlags::NOATIME, Some(data.as_c_str()))
        .map_err(|errno| fail(layout.upper, &errno))?;
    let upper = format!("{}/{}", layout.upper, layout.upper_dir);
    let work = format!("{}/{}", layout.upper, layout.work_dir);
    for dir in [&upper, &work] {
        make_dir(dir, 0o755).map_err(|errno| fail(dir, &errno))?;
    }
    mount_overlay(layers, Some((&upper, &work)), &plan.options, ROOT)
        .map_err(|error| fail("overlay", &error))
}

/// Takes everything down again after a failed try, latest first, so that the
/// next try starts clean. What is not mounted is no error.
pub fn undo(found: Option<&Found>, layout: Layout) {
    let _ = detach(ROOT);
    let _ = detach(layout.upper);
    if let Some(Found { root: Root::Layers(layers), .. }) = found {
        for layer in layers.iter().rev() {
            let _ = detach(&format!("{}/{}", layout.images, layer.name));
        }
    }
    let _ = detach(&tree_target(layout));
    let _ = detach(layout.medium);
    let _ = detach(layout.container);
}

/// Where a tree is mounted that an overlay will lie on.
#[must_use]
pub fn tree_target(layout: Layout) -> String {
    format!("{}/root", layout.images)
}

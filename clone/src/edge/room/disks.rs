//! The disks of a machine of a room, and the order in which they are asked.

use crate::edge::World;
use crate::edge::place::Place;
use crate::edge::world::Shelf;
use crate::error::Trouble;
use crate::room::bits::Bits;
use crate::room::keep::Keep;
use crate::room::manifest::Manifest;
use crate::room::{Ask, Told};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

/// The disks of a copy.
#[derive(Debug)]
pub struct Disks {
    manifest: Arc<Manifest>,
    keeps: Vec<Keep<Place>>,
}

impl Disks {
    /// These places for the disks of the manifest, with what the user wants of the copy.
    ///
    /// # Errors
    /// There are too few, or one is too small.
    pub fn new(
        manifest: &Arc<Manifest>,
        places: Vec<Place>,
        world: &mut dyn World,
        sender: Option<Ipv4Addr>,
    ) -> Result<Self, Trouble> {
        let wanted = manifest.layout.disks.len();
        #[cfg(feature = "files")]
        if !manifest.layout.tree.is_empty() {
            let name = places.first().map_or_else(Default::default, |p| p.path().to_string());
            let why = "the sender sends files; bellwether clone receive --files DIR takes them";
            return Err(Trouble::Kind { name, why });
        }
        if wanted != places.len() {
            let name = places.first().map_or_else(Default::default, |p| p.path().to_string());
            let why = if wanted > places.len() {
                "the sender sends more disks than this machine was given"
            } else {
                "the sender sends fewer disks than this machine was given"
            };
            return Err(Trouble::Kind { name, why });
        }
        let read_back = world.reads_back();
        let keep = |(n, place): (u16, Place)| {
            let block = place.block();
            let keep = Keep::new(place, (manifest.clone(), n), block, read_back, sender)?;
            #[cfg(feature = "own-table")]
            let keep = if world.keeps_table() { keep.beside()? } else { keep };
            Ok(keep)
        };
        let keeps = (0..).zip(places).map(keep).collect::<Result<_, _>>()?;
        Ok(Self { manifest: manifest.clone(), keeps })
    }

    fn of(&mut self, n: u32) -> Option<&mut Keep<Place>> {
        let disk = self.manifest.layout.chunk(n)?.disk;
        self.keeps.get_mut(usize::from(disk))
    }

    fn scan(&mut self, tick: &mut dyn FnMut()) -> Result<Bits, Trouble> {
        let mut have = Bits::new(self.manifest.layout.count());
        self.keeps.iter_mut().try_for_each(|keep| keep.scan(&mut have, tick))?;
        Ok(have)
    }

    fn finish(&mut self) -> Result<bool, Trouble> {
        let kept = self.keeps.iter_mut().map(Keep::finish).collect::<Result<Vec<_>, _>>()?;
        Ok(kept.into_iter().all(|read_back| read_back))
    }
}

impl Shelf for Disks {
    fn ask(&mut self, ask: Ask, tick: &mut dyn FnMut()) -> Told {
        let told = match ask {
            Ask::Look => {
                // All of them are asked: what is behind may be remembered meanwhile.
                let looks = self.keeps.iter_mut().map(|keep| keep.look(tick));
                Ok(Told::Looked(looks.fold(false, |any, one| any | one)))
            }
            Ask::Scan => self.scan(tick).map(Told::Scanned),
            Ask::Store(n, data) => {
                let stored = self.of(n).map_or(Ok(()), |keep| keep.store(n, &data));
                stored.map(|()| Told::Stored(n))
            }
            // It is had elsewhere.
            Ask::Read(n) => {
                let read = self.of(n).and_then(|keep| keep.read(n).ok().flatten());
                Ok(Told::Read(n, read))
            }
            Ask::Finish => self.finish().map(Told::Kept),
        };
        told.unwrap_or_else(|trouble| Told::Failed(trouble.to_string()))
    }
}

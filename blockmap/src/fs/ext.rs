use super::map::Map;
use crate::raw::Raw;
use crate::read::Window;

pub fn read(_: &mut Window<'_>) -> Result<Map, Raw> {
    Err(Raw::NoReader(overlay::probe::Format::Ext))
}

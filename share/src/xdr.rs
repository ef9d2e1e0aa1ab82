//! Writes XDR (RFC 4506) and parses calls of ONC RPC (RFC 5531), for servers. [`netboot`]'s
//! decoder parses the data types.

use netboot::nfs::rpc::Decoder;

/// Appends XDR to a buffer.
#[derive(Debug)]
pub struct Writer<'b>(pub &'b mut Vec<u8>);

impl Writer<'_> {
    /// A 32-bit number.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A 64-bit number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u32(u32::from(value))
    }

    /// Bytes of variable length, padded.
    pub fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(0));
        self.0.extend_from_slice(bytes);
        self.pad(bytes.len())
    }

    /// The padding after `length` bytes.
    pub fn pad(&mut self, length: usize) -> &mut Self {
        let padded = length.next_multiple_of(4);
        self.0.extend(std::iter::repeat_n(0, padded - length));
        self
    }
}

/// A large number.
pub fn u64(xdr: &mut Decoder<'_>) -> Option<u64> {
    Some(u64::from(xdr.u32()?) << 32 | u64::from(xdr.u32()?))
}

/// The head of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Transaction id.
    pub xid: u32,
    /// RPC version; 2 is the only one.
    pub rpc: u32,
    /// Program number.
    pub program: u32,
    /// Program version.
    pub version: u32,
    /// Procedure.
    pub procedure: u32,
}

impl Call {
    /// Parses the head of a call; the rest are the arguments. `None` when it is not a call.
    /// Credentials are ignored: everything served is public.
    pub fn read<'a>(record: &'a [u8]) -> Option<(Self, Decoder<'a>)> {
        let mut xdr = Decoder::new(record);
        let xid = xdr.u32()?;
        if xdr.u32()? != 0 {
            return None;
        }
        let rpc = xdr.u32()?;
        let (program, version, procedure) = (xdr.u32()?, xdr.u32()?, xdr.u32()?);
        for _ in ["credentials", "verifier"] {
            xdr.u32()?;
            xdr.opaque(400)?;
        }
        Some((Self { xid, rpc, program, version, procedure }, xdr))
    }

    /// Starts an accepted reply with an `accept_stat`: 0 success, 1 no such program, 2 no such
    /// version (two numbers follow), 3 no such procedure, 4 malformed arguments.
    pub fn accept<'b>(&self, out: &'b mut Vec<u8>, status: u32) -> Writer<'b> {
        let mut xdr = Writer(out);
        xdr.u32(self.xid).u32(1).u32(0).u32(0).u32(0).u32(status);
        xdr
    }

    /// Refuses another version of RPC.
    pub fn deny(&self, out: &mut Vec<u8>) {
        Writer(out).u32(self.xid).u32(1).u32(1).u32(0).u32(2).u32(2);
    }
}

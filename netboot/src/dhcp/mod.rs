//! DHCP for IPv4 (RFC 2131), the client's part.
//!
//! Own state machine over smoltcp's wire formats. smoltcp's ready-made socket
//! keeps three name servers, knows neither option overload (52) nor split
//! options (RFC 3396), always takes the first offer, and backs off so far that a
//! server which comes up late is not heard for half a minute; the requirements of
//! booting are the opposite. What is shared with it is the part that is easy to
//! get wrong: Ethernet, IPv4, UDP and BOOTP headers and their checksums.
//!
//! Not done: renewing (the live system's network manager or the kernel's patience
//! does that), DECLINE after an address conflict, DHCPINFORM, IPv6.

pub mod client;
pub mod lease;
pub mod message;
pub mod options;

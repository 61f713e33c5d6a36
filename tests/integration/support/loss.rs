use super::proxy::{Fate, Proxy};

/// A loss of the k-th request of a run or of its reply, and perhaps of all requests that follow.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    is_reply: bool,
    is_for_good: bool,
}

impl Loss {
    /// All kinds of losses.
    pub const EACH: [Loss; 4] = [
        Loss { is_reply: false, is_for_good: false },
        Loss { is_reply: false, is_for_good: true },
        Loss { is_reply: true, is_for_good: false },
        Loss { is_reply: true, is_for_good: true },
    ];

    /// Strikes request number `k` from now on, until the proxy is healed.
    pub fn strike(self, proxy: &Proxy, k: usize) {
        let mut count = 0;
        proxy.take_seen();
        proxy.script(move |_| {
            count += 1;
            match self {
                Loss { is_for_good: true, .. } if count > k => Fate::LoseRequest,
                Loss { is_reply: true, .. } if count == k => Fate::LoseReply,
                Loss { is_reply: false, .. } if count == k => Fate::LoseRequest,
                _ => Fate::Pass,
            }
        });
    }
}

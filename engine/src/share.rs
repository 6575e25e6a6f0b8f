//! Places in a table of a shard that all its apps share: none may take what the others need.

/// How much an app may hold of what is left: eight times as many places as are free. One app alone gets
/// eight ninths of the table, two get eight seventeenths each, and there is always room for one more.
/// This is the dynamic threshold of shared buffers in switches (Choudhury and Hahne, 1998): nobody needs
/// to know how many apps there are, and no place is kept for those who do not come.
const TIMES_FREE: usize = 8;

/// Whether an app that holds `of_app` of the `taken` places may take one more of `places`.
pub(super) fn has_room(of_app: usize, taken: usize, places: usize) -> bool {
    let free = places.saturating_sub(taken);
    free > 0 && (of_app as u64) < (free as u64).saturating_mul(TIMES_FREE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_takes_nearly_all_and_there_is_always_room_for_another() {
        let mut held: Vec<usize> = Vec::new();
        let places = 10_000;
        for expected in [8_889, 988, 110] {
            let before: usize = held.iter().sum();
            let mut of_app = 0;
            while has_room(of_app, before + of_app, places) {
                of_app += 1;
            }
            assert_eq!(of_app, expected);
            held.push(of_app);
        }
        assert!(has_room(0, held.iter().sum(), places));
        assert!(has_room(0, 0, 1) && !has_room(0, 1, 1) && !has_room(0, 2, 1));
    }
}

/* Colours for values: lightness grows steadily away from the page's own ground, in blue and green, so that the order can be seen
   without telling hues apart; and for each the ink, black or white, that can be read on it. */

const RAMPS = {
  light: ["#f0eee2", "#d6e4d6", "#b0d5c9", "#84c2be", "#5aabb4", "#3990a9", "#26739b", "#225589", "#20396c"],
  dark: ["#2b3047", "#2d4467", "#2c5b81", "#2e7491", "#408d9a", "#61a6a0", "#8dbea7", "#bdd6b2", "#f0edc7"],
};
const NUM_SHADES = 64;
function shades(stops) {
  const channel = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  return Array.from({ length: NUM_SHADES }, (_, index) => {
    const at = (index / (NUM_SHADES - 1)) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
    const [r, g, b] = [0, 1, 2].map((k) => channel(stops[low], k) + (at - low) * (channel(stops[low + 1], k) - channel(stops[low], k)));
    const linear = [r, g, b].map((one) => ((one / 255 + 0.055) / 1.055) ** 2.4);
    const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    return { fill: `rgb(${r | 0} ${g | 0} ${b | 0})`, ink: luminance > 0.179 ? "#000000" : "#ffffff" };
  });
}

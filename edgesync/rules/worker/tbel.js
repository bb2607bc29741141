(function () {
  function define(target, name, value) {
    // Without a prototype: `get` below would be taken for an accessor of the description.
    var how = Object.create(null);
    how.enumerable = false; how.writable = true; how.configurable = true; how.value = value;
    Object.defineProperty(target, name, how);
  }
  var has = Object.prototype.hasOwnProperty, text = String;
  function bytes(value) { return typeof value === "string" ? stringToBytes(value) : value; }
  define(Object.prototype, "containsKey", function (key) { return has.call(this, key); });
  define(Object.prototype, "put", function (key, value) { this[key] = value; return value; });
  define(Object.prototype, "remove", function (key) {
    var value = this[key];
    if (Array.isArray(this)) this.splice(key, 1); else delete this[key];
    return value;
  });
  define(Object.prototype, "size", function () {
    return Array.isArray(this) ? this.length : Object.keys(this).length;
  });
  define(Object.prototype, "isEmpty", function () {
    return typeof this.valueOf() === "string" ? this.length === 0 : this.size() === 0;
  });
  define(Object.prototype, "keys", function () { return Object.keys(this); });
  define(Object.prototype, "putAll", function (other) { Object.assign(this, other); });
  define(Array.prototype, "add", function (value) { this.push(value); return true; });
  define(Array.prototype, "contains", function (value) { return this.includes(value); });
  define(String.prototype, "contains", function (value) { return this.includes(value); });
  define(String.prototype, "equals", function (other) { return text(this) === text(other); });
  define(String.prototype, "equalsIgnoreCase", function (other) {
    return this.toLowerCase() === text(other).toLowerCase();
  });
  globalThis.parseLong = function (value) { return parseInt(value, 10); };
  globalThis.parseDouble = parseFloat;
  globalThis.toInt = function (value) { return Math.floor(value + 0.5); };
  globalThis.toFixed = function (value, places) { return Number(value.toFixed(places)); };
  globalThis.isMap = function (value) {
    return value !== null && typeof value === "object" && !Array.isArray(value);
  };
  globalThis.isList = Array.isArray;
  globalThis.isNull = function (value) { return value === null || value === undefined; };
  globalThis.raiseError = function (message) { throw new Error(message); };
  globalThis.stringToBytes = function (value) {
    return Array.from(unescape(encodeURIComponent(value)), (one) => one.charCodeAt(0));
  };
  globalThis.bytesToString = function (value) {
    var raw = value.map((one) => String.fromCharCode(one & 255)).join("");
    try { return decodeURIComponent(escape(raw)); } catch (error) { return raw; }
  };
  globalThis.decodeToString = bytesToString;
  globalThis.decodeToJson = function (value) { return JSON.parse(bytesToString(value)); };
  globalThis.hexToBytes = function (value) {
    var digits = value.replace(/^0x/i, ""), found = [];
    if (digits.length % 2) throw new Error("a byte has two digits: " + value);
    for (var at = 0; at < digits.length; at += 2) {
      var one = parseInt(digits.substr(at, 2), 16);
      if (isNaN(one)) throw new Error("no hexadecimal digits: " + value);
      found.push(one > 127 ? one - 256 : one);
    }
    return found;
  };
  globalThis.bytesToHex = function (value) {
    return value.map((one) => (one & 255).toString(16).padStart(2, "0")).join("");
  };
  globalThis.intToHex = function (value) { return value.toString(16).toUpperCase(); };
  globalThis.parseHexToInt = function (value, isBig) {
    var list = hexToBytes(value);
    return parseBytesToInt(list, 0, list.length, isBig);
  };
  globalThis.parseBytesToInt = function (value, from, count, isBig) {
    var list = bytes(value).slice(from || 0, (from || 0) + (count === undefined ? 4 : count));
    if (isBig === false) list.reverse();
    return list.reduce((sum, one) => (sum << 8) | (one & 255), 0);
  };
  globalThis.parseBytesToFloat = function (value, from, isBig) {
    var view = new DataView(new ArrayBuffer(4));
    bytes(value).slice(from || 0, (from || 0) + 4).forEach((one, at) => view.setInt8(at, one));
    return view.getFloat32(0, isBig === false);
  };
  globalThis.parseHexToFloat = function (value, isBig) {
    return parseBytesToFloat(hexToBytes(value), 0, isBig);
  };
  var LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  globalThis.base64ToBytes = function (value) {
    var found = [], bits = 0, size = 0;
    for (var one of value.replace(/=+$/, "")) {
      var at = LETTERS.indexOf(one);
      if (at < 0) throw new Error("no base64: " + value);
      bits = ((bits << 6) | at) & 0xffffff; size += 6;
      if (size >= 8) {
        size -= 8;
        var byte = (bits >> size) & 255;
        found.push(byte > 127 ? byte - 256 : byte);
      }
    }
    return found;
  };
  globalThis.bytesToBase64 = function (value) {
    var found = "", bits = 0, size = 0;
    for (var one of value) {
      bits = ((bits << 8) | (one & 255)) & 0xffffff; size += 8;
      while (size >= 6) { size -= 6; found += LETTERS[(bits >> size) & 63]; }
    }
    if (size) found += LETTERS[(bits << (6 - size)) & 63];
    return found + "=".repeat((4 - found.length % 4) % 4);
  };
  globalThis.base64ToHex = function (value) { return bytesToHex(base64ToBytes(value)); };
  // Last: a description of a property must not find it.
  define(Object.prototype, "get", function (key) { return this[key]; });
})();

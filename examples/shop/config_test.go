package shop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadConfig_Defaults(t *testing.T) {
	cfg, err := readConfig(Cart, func(string) string { return "" })
	require.NoError(t, err)
	require.Equal(t, "cart@main", cfg.id())
	require.Equal(t, "127.0.0.1", cfg.host)
	require.Equal(t, "8080", cfg.port)
	require.Equal(t, "http://pricing.localhost:8080", cfg.pricingURL)
	require.Equal(t, "inventory.localhost:8080", cfg.inventoryAddr)
	require.Empty(t, cfg.layoverProxy)
	require.Empty(t, cfg.badge)
	require.False(t, cfg.export)
	require.Zero(t, cfg.startDelay)
	require.Zero(t, cfg.stopDelay)
}

func TestReadConfig_ReportsEveryProblemAtOnce(t *testing.T) {
	env := map[string]string{
		"CART_URL":          "cart.localhost:8080",
		"PRICING_URL":       "ftp://pricing",
		"INVENTORY_ADDR":    "inventory.localhost",
		"LAYOVER_PROXY":     ":8080",
		"PRICING_DISCOUNT":  "101",
		"SHOP_DROP_BAGGAGE": "yes",
		"SHOP_START_DELAY":  "-1s",
		"SHOP_STOP_DELAY":   "soon",
	}
	_, err := readConfig(Cart, func(name string) string { return env[name] })
	require.Error(t, err)
	for name, value := range env {
		require.ErrorContains(t, err, name+` is "`+value+`": want `)
	}
}

func TestReadConfig_Settings(t *testing.T) {
	env := map[string]string{
		"CART_URL":         "http://cart.example.com/",
		"PRICING_DISCOUNT": "20",
		"SHOP_CRASH":       "1",
		"SHOP_START_DELAY": "500ms",
		"SHOP_STOP_DELAY":  "3s",
	}
	cfg, err := readConfig(Pricing, func(name string) string { return env[name] })
	require.NoError(t, err)
	require.Equal(t, "http://cart.example.com", cfg.cartURL)
	require.Equal(t, "20 % off", cfg.badge)
	require.True(t, cfg.crash)
	require.Equal(t, 500*time.Millisecond, cfg.startDelay)
	require.Equal(t, 3*time.Second, cfg.stopDelay)
}
